"""CLIP: load a model (`loading`), encode templates (`text_features`), encode images (`image_features`).

Nothing is imported here, so `import ipo_dspy.clip` stays light; torch comes with the first submodule.
"""
