"""CLIP: load a model (`loading`), check (`template_tokens`) and encode (`text_features`) templates, encode images.

Nothing is imported here, so `import ipo_dspy.clip` stays light; torch comes with the first submodule.
"""
