"""A seeded city with labelled faults, and replay of real recordings, through the front door only.

What is made here enters where real sensors enter: as MQTT messages. Nothing downstream can tell
the difference, so whatever is measured with it is true of the whole way.
"""
