"""Observers: plugins that are told what happened and change nothing."""
