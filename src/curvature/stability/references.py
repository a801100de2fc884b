"""Predictors that any regression should be compared with."""

from curvature.stability.problems import Problem


def reference_losses(problem: Problem) -> dict[str, float]:
    """Test half-MSE of the training mean (``constant``) and of a line fitted by least squares (``least_squares``).

    With more inputs than samples the line is the interpolant of least l2 norm, apart from its intercept.
    """
    from sklearn.linear_model import LinearRegression

    line = LinearRegression().fit(problem.inputs.numpy(), problem.targets.numpy())
    predictions = {
        "constant": problem.targets.mean().numpy(),
        "least_squares": line.predict(problem.test_inputs.numpy()),
    }
    targets = problem.test_targets.numpy()
    return {name: float(((predicted - targets) ** 2).mean() / 2) for name, predicted in predictions.items()}
