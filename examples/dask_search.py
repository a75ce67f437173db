"""A search for hyper-parameters on several processes: scikit-learn's, by joblib and Dask.

Each fit belongs to one process, and Dask hands the fits out to its workers: here two on this
machine; on a cluster, `Client("scheduler:8786")` is all that changes.
"""

import fastnet as fn

CHOICES = {"hidden_layer_sizes": [(20,), (100,)], "learning_rate_init": [0.001, 0.01, 0.03]}


def make_search(**options):
    from sklearn.model_selection import GridSearchCV

    from fastnet.sklearn import MLPClassifier

    model = MLPClassifier(random_state=0, max_iter=500, tol=0.01, n_iter_no_change=3)
    return GridSearchCV(model, CHOICES, cv=3, **options)


def digits():
    x, labels = fn.load_digits()
    return (x[:1500], labels[:1500]), (x[1500:], labels[1500:])


if __name__ == "__main__":              # workers import this script, too
    try:
        import joblib
        import sklearn  # noqa: F401
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise SystemExit(f"{error}: this needs dask, distributed and scikit-learn") from None

    training, held_out = digits()
    with (LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
          Client(cluster) as client, joblib.parallel_config("dask")):
        search = make_search(n_jobs=-1).fit(*training)
        workers = len(client.scheduler_info()["workers"])
    print(f"{len(search.cv_results_['params'])} choices on {workers} workers")
    print(f"best: {search.best_params_}, accuracy {search.best_score_:.4f} in cross-validation, "
          f"{search.score(*held_out):.4f} on digits that were held out")
