"""Alerts to people: pure stages decide, the outbox remembers, a notifier tells."""
