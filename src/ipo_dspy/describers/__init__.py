"""Describers of the look of training images, behind one Protocol.

`LMDescriber` asks a multimodal language model; `ClipDescriber` ranks a phrase bank with the CLIP model itself.
Descriptions cover the look of images, never their class: the template has `<CLASS>` for that.
"""

from ipo_dspy.describers.base import Describer, Descriptions, without_class_name
from ipo_dspy.describers.clip import ClipDescriber
from ipo_dspy.describers.lm import LMDescriber

__all__ = ["ClipDescriber", "Describer", "Descriptions", "LMDescriber", "without_class_name"]
