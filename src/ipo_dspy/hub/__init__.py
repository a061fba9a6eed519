"""Programs on the Hugging Face hub, with a card that says what was measured."""
