"""MQTT to Kafka: decode, validate, withhold, batch.

A message becomes columns here, once, and stays columns to the database.
"""
