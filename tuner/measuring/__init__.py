"""What a policy costs: prompts are read once, and every policy is measured on what is held of them."""
