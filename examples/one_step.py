"""Exercise E: one exact gradient step of a 2-3-2 network, small enough to check by hand.

ReLU hidden layer, softmax output, cross-entropy, learning rate 0.5. The exercise numbers weights
row by row into each unit, so its w1, w2, ... are the columns of our (in, out) matrices, one after
the other.
"""

import numpy as np

import fastnet as fn

X, TARGET = [[0.26, 0.33]], [[1, 0]]
NAMES = [f"w{i}" for i in range(1, 13)] + [f"b{i}" for i in range(1, 6)]


def build(dtype="float64"):
    """Return the layers with the exercise's weights and biases."""
    hidden, output = fn.Dense(2, 3, dtype=dtype), fn.Dense(3, 2, dtype=dtype)
    hidden.weight = [[0.1, 0.2, 0.4],           # w1 w3 w5
                     [0.5, 0.4, 0.1]]           # w2 w4 w6
    hidden.bias = [0.3, 0.3, 0.3]               # b1 b2 b3
    output.weight = [[0.1, 0.2],                # w7 w10
                     [0.5, 0.1],                # w8 w11
                     [0.3, 0.4]]                # w9 w12
    output.bias = [0.7, 0.7]                    # b4 b5
    return [hidden, fn.ReLU(), output]


def in_order(weight1, bias1, weight2, bias2):
    """Return the 17 numbers of four arrays by their names in the exercise."""
    numbers = np.concatenate([weight1.T.ravel(), weight2.T.ravel(), bias1, bias2])
    return dict(zip(NAMES, numbers, strict=True))


def step(layers, lr=0.5):
    """Take the step; return probabilities, loss, gradients, and parameters after the step."""
    loss, sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr)
    y = X
    for layer in layers:
        y = layer.forward(y)
    value = loss.forward(y, TARGET)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    sgd.step(layers)

    hidden, _, output = layers
    gradients = in_order(hidden.weight_grad, hidden.bias_grad, output.weight_grad, output.bias_grad)
    after = in_order(hidden.weight, hidden.bias, output.weight, output.bias)
    return fn.Softmax().forward(y)[0], value, gradients, after


if __name__ == "__main__":
    outputs, value, gradients, after = step(build())
    cells = [f"| {name} | {gradients[name]:.2f} | {after[name]:.2f} " for name in NAMES]
    print("| | gradient | after the step | | gradient | after the step |")
    print("|---|---|---|---|---|---|")
    for left, right in zip(cells[:9], [*cells[9:], "| | | "], strict=True):
        print(left + right + "|")
    print(f"Outputs {outputs[0]:.2f} and {outputs[1]:.2f}, loss {value:.2f}.")
    print(f"To more digits: outputs {outputs[0]:.8f}, {outputs[1]:.8f}; loss {value:.10f}.")
