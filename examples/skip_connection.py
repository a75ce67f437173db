"""Exercise C: a network of scalars with a skip connection from the input, forward and backward.

    x1 = relu(x0 * w0 + b0),   y1 = x1 * w1 + b1,   z = relu(y1 + x0)

`Residual(inner)` is `inner(x) + x`, so the inner layers make y1 and the last ReLU makes z. One of
the write-ups slips in between: it has -0.04 for x1 * w1 and -0.34 for y1. Right are
0.4 * -0.2 = -0.08 and -0.08 - 0.3 = -0.38, as printed here.
"""

import fastnet as fn

X0 = [[1.0]]


def build(dtype="float64"):
    """Return the layers with the exercise's weights and biases."""
    first, second = fn.Dense(1, 1, dtype=dtype), fn.Dense(1, 1, dtype=dtype)
    first.weight, first.bias = [[0.3]], [0.1]
    second.weight, second.bias = [[-0.2]], [-0.3]
    return [fn.Residual([first, fn.ReLU(), second]), fn.ReLU()]


def step(layers, loss, sgd, target):
    """Take one step that brings z nearer to the target, and return the loss before it."""
    y = X0
    for layer in layers:
        y = layer.forward(y)
    value = loss.forward(y, target)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    sgd.step(layers)
    return value


if __name__ == "__main__":
    residual, relu = layers = build()
    first, inner_relu, second = residual.layers

    x1 = inner_relu.forward(first.forward(X0))      # once by hand, to see what happens inside
    y1 = second.forward(x1)
    z = relu.forward(residual.forward(X0))
    print(f"x1 = {x1[0, 0]:.4g}, x1 * w1 = {x1[0, 0] * second.weight[0, 0]:.4g}, "
          f"y1 = {y1[0, 0]:.4g}, z = {z[0, 0]:.4g}")

    residual.backward(relu.backward([[1.0]]))       # dz/dz = 1
    print(f"dz/dw0 = {first.weight_grad[0, 0]:.4g}, dz/dw1 = {second.weight_grad[0, 0]:.4g}, "
          f"dz/db0 = {first.bias_grad[0]:.4g}, dz/db1 = {second.bias_grad[0]:.4g}")

    loss, sgd = fn.MeanSquaredError(), fn.SGD(lr=0.1)
    errors = [step(layers, loss, sgd, target=[[2.0]]) for _ in range(20)]
    print(f"squared error to a target of 2: {errors[0]:.4g} before training, "
          f"{errors[-1]:.2g} at step {len(errors)}")
