"""Alarms of drift: has the stream of parts moved away from what the model was trained on?"""
