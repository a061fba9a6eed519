"""CLIP behind three small doors: load it (`backbone`), encode templates (`text`), encode images (`images`).

Nothing is imported here, so `import ipo_dspy.clip` stays light; torch comes with the first submodule.
"""
