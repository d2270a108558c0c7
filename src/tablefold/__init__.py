"""tablefold: fold the embedding tables of recommender and click models 10x to 10,000x."""
