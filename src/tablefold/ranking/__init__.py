"""All items ranked for a user: figures of a run's ranking, and recommendations.

catalogue.py        the users and items of a dataset: their columns of ids, what each user took
all_items.py        the score of every item for some users
measures.py         recall@k, NDCG@k, MRR
recommendations.py  the best items of users, as a file
"""
