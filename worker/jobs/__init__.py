"""The counter: job contract, store, queue transport, events and artifacts. Never loads torch."""
