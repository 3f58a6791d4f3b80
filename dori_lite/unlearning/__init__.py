"""Unlearning: train a model until it no longer holds some pictures, and keeps all else.

    from dori_lite.unlearning.loop import forgetting

The loop is there; methods, which decide what the wrong answers come with, follow.
"""
