"""The server: OpenAI's API over the models of a deployment (`bottega serve`).

It holds no model logic: routes turn requests into calls of the public interface, and what comes back into answers.
"""
