"""Exercise A: gradients of a small graph of sums, a maximum and a multiple, node by node.

    y11 = x1 + x2,   y12 = max(x3, x4),   y2 = y11 + y12,   y3 = 3 * y2

Each node gets the gradient of y3 by its output and returns the gradients by its inputs. A maximum
hands everything to the larger input; on a tie the first one wins.
"""

import numpy as np

import fastnet as fn


def gradients(x1, x2, x3, x4):
    """Return y3 and its gradients by x1, x2, x3 and x4."""
    add, maximum, add_both, scale = fn.Add(), fn.Maximum(), fn.Add(), fn.Scale(3)

    y11 = add.forward(x1, x2)
    y12 = maximum.forward(x3, x4)
    y2 = add_both.forward(y11, y12)
    y3 = scale.forward(y2)

    dy2 = scale.backward(np.ones_like(y3))
    dy11, dy12 = add_both.backward(dy2)
    dx3, dx4 = maximum.backward(dy12)
    dx1, dx2 = add.backward(dy11)
    return y3, (dx1, dx2, dx3, dx4)


def show(*x):
    y3, dx = gradients(*x)
    print(f"x = {x}: y3 = {y3:g}, dy3/dx = ({', '.join(f'{d:g}' for d in dx)})")


def dead_unit():
    """Print the gradients of two ReLU units; the second is dead: below 0 for every sample."""
    dense, relu = fn.Dense(1, 2), fn.ReLU()
    dense.weight, dense.bias = [[1, -1]], [0, -1]
    y = relu.forward(dense.forward([[1], [2], [3]]))    # unit 2 gets -2, -3, -4
    dense.backward(relu.backward(np.ones_like(y)))
    print(f"ReLU units: weight gradients {dense.weight_grad[0]}, bias gradients {dense.bias_grad}")


if __name__ == "__main__":
    show(2.0, 4.0, 1.0, 5.0)        # x1 and x2 can be anything
    show(2.0, 4.0, 5.0, 5.0)        # a tie
    dead_unit()                     # gradient 0: plain descent never wakes it up
