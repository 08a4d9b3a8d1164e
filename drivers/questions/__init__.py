"""Queues of questions: the driver asks and waits for the answer, the device answers each chain at once."""
