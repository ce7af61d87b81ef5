"""scikit-learn's grid search on the engines: nothing changes but where its jobs run.

    pip install "mpiparallel[sklearn]"
    mpiparallel run -n 4 examples/grid_search.py
"""

import time

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import mpiparallel as ipp

GRID = {"C": [0.1, 1, 10, 100], "gamma": [0.0001, 0.001, 0.01]}


def search():
    return GridSearchCV(SVC(), GRID, cv=3, n_jobs=-1)


def main():
    images, digits = load_digits(return_X_y=True)
    images, digits = images[:900], digits[:900]
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=60)
        rc.load_balanced_view().register_joblib_backend()
        began = time.perf_counter()
        with joblib.parallel_config("mpiparallel"):
            found = search().fit(images, digits)
        seconds = time.perf_counter() - began
        tasks = len(rc.history)
    candidates = len(found.cv_results_["params"])
    print(f"{candidates} candidates, 3 folds: {seconds:.2f} s, {tasks} tasks on the engines")
    print(f"best: {found.best_params_}, {100 * found.best_score_:.1f} % of the digits read")
    with joblib.parallel_config("sequential"):
        here = search().fit(images, digits)
    print("the same as without engines:", here.best_params_ == found.best_params_)


if __name__ == "__main__":
    main()
