"""Images of a policy and of its untouched base from the same noise, and what the evaluators say of them."""
