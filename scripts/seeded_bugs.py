"""Plant bugs, one at a time, and see that the tests named for each of them fail.

    python scripts/seeded_bugs.py              all of them
    python scripts/seeded_bugs.py softmax      those whose name contains the word
    python scripts/seeded_bugs.py --today      every 32nd one; on the next days the others

Works on a copy of the source tree: a bug is one replacement of text, the copy is built again, and
the test file must fail. A bug that no test notices, or a replacement that fits nowhere, ends the
run with status 1. Needs fastnet and what its tests need, and Cython, setuptools and a compiler.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import NamedTuple

from fastnet import _ops

ROOT = Path(__file__).parents[1]
LIMIT = 900     # seconds for a test file or a build


class Bug(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str
    test: str = "test_kernels.py"
    dtype: str = "float32"      # the source is one for both: a bug is planted in one of them


OUT_OF_MEMORY = "test_out_of_memory.py::test_55_memory_runs_out[{}]"

BUGS = [
    Bug("1/n left out of the gradient", "_losses.pxi",
        "narrow(weights[k] / (sums[k] * total), &factor, k)",
        "narrow(weights[k] / sums[k], &factor, k)"),
    Bug("1/n taken twice in losses of entries", "_entry_losses.pxi",
        "part = broadcast(<real>(1.0 / total))",
        "part = broadcast(<real>(1.0 / total / total))"),
    Bug("weight transposed in dX", "_dense.pxi",
        "product(dZ, n_out, 1, W, 1, n_out, NULL", "product(dZ, n_out, 1, W, n_in, 1, NULL"),
    Bug("bias gradient missing", "_dense.pxi",
        "        sum_rows(dZ, db, n, n_out, add)", "        pass"),
    Bug("bias not added", "_products.pxi",
        "start, start_row = bias + j if bias != NULL else NULL, 0",
        "start, start_row = NULL, 0"),
    Bug("ReLU before the last block of a long sum", "_products.pxi",
        "relu and p + depth == k)", "relu)"),
    Bug("later blocks of a long sum start anew", "_products.pxi",
        "add or p > 0, p + depth == k,", "add, p + depth == k,"),
    Bug("one row, one vector: the bias forgotten", "_products.pxi",
        "        c[0] = c[0] + load_first(bias, n)", "        pass"),
    Bug("one row, one vector: four sums of which one is lost", "_products.pxi",
        "c[0] = (c[0] + c[1]) + (c[2] + c[3])", "c[0] = (c[0] + c[1]) + c[2]"),
    Bug("a few numbers: the bias forgotten", "_products.pxi",
        "total = bias[j] if bias != NULL else 0", "total = 0"),
    Bug("copied rows of A begin anew in each block of a long sum", "_products.pxi",
        "pack_strip(a, row, col,", "pack_strip(a - p * col, row, col,"),
    Bug("copied rows of A end too late", "_products.pxi",
        "(m - i - 1) * row + (k - p - 1) * col + 1,", "m * row + k * col,", "test_memory.py"),
    Bug("gradient by a ReLU's input: mask of the wrong rows", "_products.pxi",
        "relu_backward(mask + i * n,", "relu_backward(mask,"),
    Bug("gradient by a ReLU's input: mask forgotten for few outputs", "_products.pxi",
        "        c = vec_relu_backward(load(mask, left), c)", "        c = c"),
    Bug("gradient by a ReLU's input: mask forgotten for small batches", "_dense.pxi",
        "        relu_backward(mask, dX, dX, rows * n_in)", "        pass"),
    Bug("a network's gradient not put aside at the end of a residual", "_parts.pxd",
        "w.kernels.add_forward(dy, moved(w.skip, at, w), dx, size)",
        "memcpy(dx, dy, size * w.itemsize)", "test_engine.py"),
    Bug("a step with a loss that is not finite is applied", "_engine.pyx",
        "            if not isfinite(value[0]):\n                return BAD_LOSS\n", "",
        "test_engine.py"),
    Bug("gradients of all blocks of a batch but the last are lost", "_engine.pyx",
        "self.backward(x, some, first > 0,", "self.backward(x, some, False,", "test_engine.py"),
    Bug("gradients that were gathered are lost", "_engine.pyx",
        "            if self.pending:\n", "            if False:\n", "test_fit.py"),
    Bug("gathered gradients divided by the last batch alone", "_engine.pyx",
        "self.pending_total += total[0]", "self.pending_total = total[0]", "test_fit.py"),
    Bug("weights updated after each block of a batch", "_engine.pyx",
        "wait = block < b.n or", "wait =", "test_engine.py"),
    Bug("large weights updated by a batch that only gathers", "_engine.pyx",
        "first > 0, keep or gathers,", "first > 0, keep,", "test_fit.py"),
    Bug("the loss of a block divided by its own rows", "_engine.pyx",
        "self.here(self.gradient_places[0], x), scale) / divisor",
        "self.here(self.gradient_places[0], x), some) / divisor", "test_engine.py"),
    Bug("scores of an epoch all written to the first batch's place", "_engine.pyx",
        "to + first * target_row if to != NULL", "to if to != NULL", "test_fit.py"),
    Bug("an epoch's orders begin anew after a stop", "_fitting.py",
        '            set_random_state(self.orders.bit_generator, state["orders"])\n',
        "            pass\n",
        "test_callbacks.py"),
    Bug("early stopping keeps the last parameters", "callbacks.py",
        "[w.copy() for _, w, _ in", "[w for _, w, _ in", "test_callbacks.py"),
    Bug("scikit-learn's decay: a short last batch taken for a full one", "sklearn.py",
        "counts = np.diff(np.append(starts, n)).astype(np.float64)",
        "counts = np.full(len(starts), float(batch_size))", "test_sklearn.py"),
    Bug("scikit-learn's Adam: epsilon without the factor of the gradient", "sklearn.py",
        '{"eps": self._eps / self.factor}', '{"eps": self._eps}', "test_sklearn.py"),
    Bug("scikit-learn's orders begin anew in each epoch", "sklearn.py",
        "self._order = self._order[indices]", "self._order = indices", "test_sklearn.py"),
    Bug("scikit-learn's orders are not drawn by a quick step", "sklearn.py",
        "        if not self._shuffles:\n", "        if True:\n", "test_sklearn.py"),
    Bug("an estimator's checkpoint without its books", "sklearn.py",
        '        vars(own).update(state["books"])\n', "", "test_sklearn.py"),
    Bug("an estimator's optimizer made of today's parameters", "sklearn.py",
        'state["optimizer"].get("options", self._optimizer_options())',
        "self._optimizer_options()", "test_sklearn.py"),
    Bug("a checksum that nobody compares", "_state_file.py",
        "if at < 0 or _sha256([whole[:at], NO_SUM.encode(), whole[at + 64:]]) != expected:",
        "if at < 0:",
        "test_model_files.py"),
    Bug("arrays of a file may lie anywhere in it", "_state_file.py",
        "offsets != [begins, ends] or ends", "ends", "test_model_files.py"),
    Bug("a name twice in a file", "_state_file.py", "if len(found) < len(pairs):", "if False:",
        "test_model_files.py"),
    Bug("layers are built before their parameters are looked for", "network.py",
        "if given != expected.get(name):", "if False:", "test_model_files.py"),
    Bug("layers of any size where nothing has parameters", "_describe.py",
        "if names := list(parameters_of(description)):", "if names := []:", "test_model_files.py"),
    Bug("positions of random numbers are taken as they come", "_convert.py",
        "if not 0 <= value <= most:", "if False:", "test_model_files.py"),
    Bug("a file appears before it is complete", "_files.py",
        "        file.close()\n        _sync(file.name)\n        os.replace(file.name, path)",
        "        os.replace(file.name, path)\n        file.close()\n        _sync(path)",
        "test_model_files.py"),
    Bug("where dropout stands is not saved", "network.py",
        ",\n                 *copying((layer._seen for layer in dropouts), seen)]", "]",
        "test_model_files.py"),
    Bug("a batch normalization folded without its mean", "_torch.py", "- mean * scale", "",
        "test_torch_exchange.py"),
    Bug("weights of PyTorch not transposed", "_torch.py", "_dense(weight.T, bias,",
        "_dense(weight.reshape(weight.T.shape), bias,", "test_torch_exchange.py"),
    Bug("a Residual at the front may change the width", "network.py",
        "if self.width != width:         # as", "if False:         # as", "test_network.py"),
    Bug("C: softmax without its largest score taken off", "_c.py",
        "y[i] = exp(x[i] - largest);\n        sum", "y[i] = exp(x[i]);\n        sum",
        "test_c_export.py"),
    Bug("the reported penalty twice", "_engine.pyx", "0.5 * o.penalty", "o.penalty",
        "test_sklearn.py"),
    Bug("top-k counts equals as worse", "_losses.pxi",
        "not x[j] <= x[wanted] or j < wanted and x[j] == x[wanted]", "not x[j] <= x[wanted]",
        "test_metrics.py"),
    Bug("R2 by the variance of all columns together", "_losses.pxi",
        "        mean = residual = spread = 0\n", "        residual = spread = 0\n",
        "test_metrics.py"),
    Bug("bias gradients not added", "_dense.pxi",
        "            if add:\n                v = load",
        "            if False:\n                v = load"),
    Bug("weight gradients of small batches not added", "_dense.pxi",
        "    elif n == 1 and n_out <= MOST_OUTER and not add:",
        "    elif n == 1 and n_out <= MOST_OUTER:"),
    Bug("a shuffled batch keeps the labels' old order", "_engine.pyx",
        "label = labels[order[i] if order != NULL else i]", "label = labels[i]", "test_engine.py"),
    Bug("labels of a network not looked at", "_engine.pyx",
        "            elif label < 0 or label >= self.n_out:", "            elif False:",
        "test_engine.py"),
    Bug("biases not updated beside large weights", "_engine.pyx",
        "            if op.bias != NOWHERE:\n"
        "                finite &= self.update_some(op.bias, op.n_out, &of_vectors, steps)\n", "",
        "test_engine.py"),
    Bug("the ReLU behind a network's last layer not masked", "_engine.pyx",
        "                if op.masks:", "                if False:", "test_engine.py"),
    Bug("a frozen network keeps the living one's weights", "_engine.pyx",
        "        parameters = parameters.copy()\n        parameters.flags.writeable = False\n", "",
        "test_network.py"),
    Bug("ReLU mask off by one", "_elementwise.pxi",
        "dX[i] = 0 if X[i] <= 0 else dY[i]",
        "dX[i] = 0 if X[(i + 1) % size] <= 0 else dY[i]"),
    Bug("relu'(0) is 1", "_elementwise.pxi",
        "dX[i] = 0 if X[i] <= 0 else dY[i]", "dX[i] = 0 if X[i] < 0 else dY[i]"),
    Bug("ReLU hides NaN", "_elementwise.pxi",
        "Y[i] = 0 if X[i] <= 0 else X[i]", "Y[i] = X[i] if X[i] > 0 else 0"),
    Bug("softmax without the maximum", "_softmax.pxi",
        "        columns[j] = vec_exp(columns[j] - m)",
        "        columns[j] = vec_exp(columns[j])"),
    Bug("cross-entropy without the maximum", "_softmax.pxi",
        "n_classes - j) - broadcast(m))",
        "n_classes - j))"),
    Bug("softmax backward with I - y y^T", "_softmax.pxi",
        "                y[j] = y[j] * (dy[j] - dot)",
        "                y[j] = dy[j] - y[j] * dot"),
    Bug("second largest of equals wins", "_elementwise.pxi",
        "return (a >= b) | (a != a)", "return (a > b) | (a != a)"),
    Bug("last columns written as a whole vector", "_products.pxi",
        "if j < vectors - 1 or last == LANES:", "if True:"),
    Bug("vectors read beyond the end of B", "_products.pxi",
        "rows, k, whole, last, False, vectors)", "rows, k, k, last, False, vectors)",
        "test_memory.py"),
    Bug("partial reads that are none", "_products.pxi",
        "rows, k, whole, last, False, vectors)", "rows, k, whole, LANES, False, vectors)",
        "test_memory.py"),
    Bug("last row forgotten", "_products.pxi",
        "    elif m == 1:",
        "    elif m == -1:"),
    Bug("tail of a scalar product dropped", "_products.pxi",
        "    if p < k:\n        for j", "    if p + 1 < k:\n        for j"),
    Bug("transposed with halves exchanged", "_vectors.pxi",
        "zipped[2 * i] = zip_low(rows[i], rows[i + LANES // 2])",
        "zipped[2 * i] = zip_low(rows[i + LANES // 2], rows[i])"),
    Bug("scattered tiles add to what was there", "_products.pxi",
        "            if add:\n                C[i", "            if True:\n                C[i"),
    Bug("bias gradient of the last row alone", "_dense.pxi",
        "v[i] = v[i] + v[i + half]", "v[i] = v[i + half]"),
    Bug("losses of the last vector of entries alone", "_entry_losses.pxi",
        "sums[k] = sums[k] + own[k]", "sums[k] = own[k]"),
    Bug("label off by one", "_losses.pxi",
        "            dlogits[i * n_classes + labels[i]] -= <real>(1.0 / total)",
        "            dlogits[i * n_classes + labels[i] // 2] -= <real>(1.0 / total)"),
    Bug("a weight of 0 times infinity", "_losses.pxi",
        "                losses[k] = losses[k] + where(w, w * (m - widen(scores, k)))",
        "                losses[k] = losses[k] + w * (m - widen(scores, k))"),
    Bug("Nesterov without the look ahead", "_updates.pxi",
        "step = <real>u.look * in_register(a)", "step = in_register(a)"),
    Bug("velocity forgets the gradient's share", "_updates.pxi",
        "g = <real>u.momentum * load(A, left) + g",
        "g = <real>u.momentum * load(A, left) + <real>(1 - u.momentum) * g"),
    Bug("unaligned arrays let through", "_ops.pyx",
        "    if not cnp.PyArray_ISCARRAY_RO(array):\n        raise",
        "    if not cnp.PyArray_IS_C_CONTIGUOUS(array):\n        raise",
        "test_bad_inputs.py"),
    Bug("outputs may overlap inputs", "_ops.pyx",
        "        if a is not None and overlap(out, a):",
        "        if False and overlap(out, a):", "test_bad_inputs.py"),
    Bug("sizes of biases not looked at", "_ops.pyx",
        "        check_shape(bias, \"b\", 1, &n_out)\n", "", "test_bad_inputs.py"),
    Bug("rows of a gradient not counted", "_ops.pyx",
        "    check_rows(dz, \"dZ\", n)\n    if dW", "    if dW", "test_bad_inputs.py"),
    Bug("a memory that is used twice", "_ops.pyx",
        "    apart(dx, \"dX\", dw, \"dW\", bias_gradient, \"db\")\n", "",
        "test_bad_inputs.py"),
    Bug("negative labels let through", "_ops.pyx",
        "if (labels[i] < 0 or labels[i] >= n_classes) and", "if (labels[i] >= n_classes) and",
        "test_bad_inputs.py"),
    Bug("read-only outputs written to", "_ops.pyx",
        "    if not cnp.PyArray_ISWRITEABLE(array):", "    if False:", "test_bad_inputs.py"),
    Bug("steps layer by layer not counted", "_ops.pyx",
        "PyArray_DATA(count))[0] += 1", "PyArray_DATA(count))[0] += 0", "test_optimizers.py"),
    Bug("first parameter updated before the second is checked", "_ops.pyx",
        "        apart(a, \"velocity\", dw, \"gradient\")\n",
        "        apart(a, \"velocity\", dw, \"gradient\")\n"
        "        kernels_for(w).update(pointer(dw), pointer(w), pointer(a), NULL, NULL,\n"
        "                              cnp.PyArray_SIZE(w), &u)\n",
        "test_bad_inputs.py"),
    Bug("backward can be called twice", "layers.py",
        "        self._memory = None\n", "", "test_bad_inputs.py"),
    Bug("assigned arrays are kept, not copied", "_layer.py",
        "        array[...] = converted", "        setattr(layer, \"_\" + self.name, converted)",
        "test_layers.py"),
    Bug("velocities stored before the checks", "optimizers.py",
        "started[layer] = states", "started[layer] = self._states[layer] = states",
        "test_bad_inputs.py"),
    Bug("Residual's out is not checked first", "layers.py",
        "        _ops.check_out(out, dy) ", "        # ", "test_bad_inputs.py"),
    Bug("pickles carry data along", "_layer.py",
        'if name not in ("_memory", "_passing")', "if name", "test_layers.py"),
    Bug("scores taken for probabilities", "_losses.pxi",
        "if P[i] < 0 or P[i] > 1.001:", "if P[i] < 0:", "test_bad_inputs.py", "float64"),
    Bug("overflow in conversion unnoticed", "_convert.py",
        "        if lost.any():", "        if False:", "test_bad_inputs.py"),
    Bug("log 2 a digit short", "_exp_log.pxi",
        "-2.12194440e-4", "-2.12194e-4", "test_exp_log.py"),
    Bug("one term of exp too few", "_exp_log.pxi",
        "for i in range(terms, first, -1):", "for i in range(terms, first + 1, -1):",
        "test_exp_log.py"),
    Bug("log of a negative number", "_exp_log.pxi",
        "broadcast_double(NAN)", "broadcast_double(0)", "test_exp_log.py"),
    Bug("columns stored beyond their block", "_softmax.pxi",
        "            if at + LANES <= left:\n                (<vec_in_array *>(Y",
        "            if True:\n                (<vec_in_array *>(Y"),
    Bug("packed weights in another order", "_products.pxi",
        "packed + p * padded(n), depth, n)", "packed + p * n, depth, n)"),
    Bug("update of the first rows only", "_dense.pxi",
        "update(dW, W + at, a, b, c,", "update(dW, W, a, b, c,"),
    Bug("subnormals kept", "_ops.pyx",
        "set_fp_mode(caller.mode | FLUSH)", "set_fp_mode(caller.mode)",
        "test_floating_point_mode.py"),
    Bug("mode not restored", "_ops.pyx",
        "    set_fp_mode(caller.mode)\n", "    pass\n", "test_floating_point_mode.py"),
    Bug("GIL kept", "_ops.pyx",
        "PyEval_SaveThread() if multiplications >= LONG_WORK else NULL", "NULL",
        "test_floating_point_mode.py"),
    Bug("GIL let go for short work", "_ops.pyx",
        "if multiplications >= LONG_WORK else NULL", "if multiplications > 0 else NULL",
        "test_floating_point_mode.py"),
    Bug("GIL let go while labels are in use", "_ops.pyx",
        "    HOLD = 0 ", "    HOLD = 500_000 ", "test_floating_point_mode.py"),
    Bug("mode kept on after an error", "_ops.pyx",
        "    if i >= 0:\n        raise ValueError(f\"P[",
        "    if i >= 0:\n        set_fp_mode(fp_mode() | FLUSH)\n        raise ValueError(f\"P[",
        "test_floating_point_mode.py"),
    Bug("NaN gradients skipped", "_updates.pxi",
        "g = <real>u.momentum * load(A, left) + g",
        "g = <real>u.momentum * load(A, left) + choose(<lanes>(g == g), g, broadcast(0))",
        "test_floating_point_mode.py"),
    Bug("entries beyond a row counted, times 0", "_products.pxi",
        "b[j] = load_first(b_rows[j] + p, k - p)",
        "b[j] = (<const vec_in_array *>(b_rows[j] + p))[0]", "test_floating_point_mode.py"),
    Bug("exp hides NaN", "_vectors.pxi",
        "smaller(broadcast(limit), larger(broadcast(-limit), x))",
        "smaller(larger(x, broadcast(-limit)), broadcast(limit))", "test_exp_log.py"),
    Bug("two terms of log too few", "_exp_log.pxi",
        "for i in range(9, -1, -1):", "for i in range(7, -1, -1):", "test_exp_log.py", "float64"),
    Bug("exp stored in whole vectors", "_elementwise.pxi",
        "vec_exp(load(X + i, size - i)), size - i)", "vec_exp(load(X + i, size - i)), LANES)",
        "test_memory.py"),
    Bug("columns read beyond the last rows", "_vectors.pxi",
        "        if at + LANES <= left:\n", "        if True:\n", "test_memory.py"),
    Bug("the way of a product chosen by the address", "_dense.pxi",
        "    elif n_out == 1 and by_rows < tiles: ",
        "    elif <Py_ssize_t>X % 64 == 0:\n"
        "        product(X, n_in, 1, W, n_out, 1, b, NULL, Z, n_out, 1, rows, n_in, n_out, relu)\n"
        "    elif n_out == 1 and by_rows < tiles: ", "test_memory.py"),
    Bug("a part of rows chooses its own way", "_dense.pxi",
        "by_rows = by_dots(n, n_out, n_in)", "by_rows = by_dots(rows, n_out, n_in)",
        "test_threads.py"),
    Bug("parts of dropout begin anew", "_parts.pxd",
        "w.first_entry + <uint64_t>(first * op.n_out))", "w.first_entry)", "test_threads.py"),
    Bug("the first columns of a wide layer left out", "_parts.pxd",
        "column = part % w.across * w.width\n    rows_forward(",
        "column = part % w.across * w.width + 1\n    rows_forward(", "test_threads.py"),
    Bug("wide layers that are no products are cut along columns", "_parts.pxd",
        "return (op.kind == DENSE and n < MANY_ROWS and", "return (n < MANY_ROWS and",
        "test_threads.py"),
    Bug("parts of a prediction write to each other's places", "_engine.pyx",
        "                arena.works[found].y_row = self.widest\n", "                pass\n",
        "test_threads.py"),
    Bug("a last part of one row", "_parts.pxd", "    while 0 < size % part[0] < FEWEST:\n",
        "    while False:\n", "test_threads.py"),
    Bug("parts of a gradient by weights all begin with the first column", "_parts.pxd",
        "column = part % w.across * w.width\n    if first >= w.size:",
        "column = 0\n    if first >= w.size:", "test_threads.py"),
    Bug("the part for a bias does nothing", "_parts.pxd",
        "    if first >= w.size:                 # one more, besides the weights\n"
        "        bias_backward(w)\n",
        "    if first >= w.size:\n",
        "test_threads.py"),
    Bug("sums of a normalization in parts not made", "_parts.pxd",
        "    if first >= w.size:                 # one more: what is summed over all rows\n",
        "    if False:\n", "test_threads.py"),
    Bug("more threads are taken where they do not pay", "_tuner.pxd",
        "better = cost < t.cost * (WORTH_IT if more else 1.0)", "better = True",
        "test_tuner.py"),
    Bug("several threads that have become slow are kept", "_tuner.pxd",
        "elif t.best > 1 and t.calm <= 0 and t.doubts >= DOUBTFUL:", "elif False:",
        "test_tuner.py"),
    Bug("one good window is enough for more threads", "_tuner.pxd",
        "if better and t.wins + 1 < IN_A_ROW:", "if False:", "test_tuner.py"),
    Bug("trials of long steps come as often as those of short ones", "_tuner.pxd",
        "t.calm = LOSSES_APART * max(lost, 0.0)", "t.calm = 0", "test_tuner.py"),
    Bug("half of a processor's time is none", "_threads.py",
        "max(1, math.ceil(min(found)))", "int(min(found))", "test_num_threads.py"),
    Bug("affinity does not count", "_pool.pyx",
        "    if other > 0:\n        found = min(found, other)\n    if blas",
        "    if blas", "test_num_threads.py"),
    Bug("a limit of NumPy's BLAS goes before the user's", "_pool.pyx",
        "other != blas_then and other > 0", "other > 0", "test_num_threads.py"),
    Bug("room for blocks of whole batches alone", "_engine.pyx",
        "rows = min(batch_size, self.most_rows())", "rows = self.training_block(batch_size)",
        "test_memory.py"),
    Bug("the width of targets is not looked at", "_engine.pyx",
        "cnp.PyArray_NDIM(target) > 1 and cnp.PyArray_DIM(target, 1) != self.n_out",
        "False", "test_engine.py"),
    Bug("a network's own limit is not looked at", "_engine.pyx",
        "return allowed() if self.n_threads == 0 else min(self.n_threads, allowed())",
        "return allowed()", "test_num_threads.py"),
    Bug("a piece of work after a pause counts like others", "_tuner.pxd",
        "    if begins: ", "    if False: ", "test_tuner.py"),
    Bug("workers stay on the caller's processor", "_pool.pyx",
        "            CPU_CLR(processor, &allowed);", "            ;", "test_threads.py"),
    Bug("what a worker avoids was never allowed to it", "_pool.pyx",
        "if (here->removed && CPU_EQUAL", "if (here->avoided >= 0 && CPU_EQUAL", "test_threads.py"),
    Bug("a part claimed by two threads", "_pool.pyx",
        "        if swap(&pool.ticket, &ticket, ticket - 1, False, ORDERED, ORDERED):",
        "        store(&pool.ticket, ticket - 1, ORDERED)\n        if True:", "test_threads.py"),
    Bug("a part that is done twice", "_pool.pyx",
        "ticket - 1, False, ORDERED, ORDERED):\n            left[0] = <Py_ssize_t>(ticket & LOWER)",
        "ticket - 1, False, ORDERED, ORDERED):\n"
        "            left[0] = <Py_ssize_t>(ticket & LOWER | 1)", "test_threads.py"),
    Bug("a busy pool whose caller does nothing", "_pool.pyx",
        "        for part in range(parts):\n            task(work, part)\n        return",
        "        return", "test_threads.py"),
    Bug("a fork's child counts on threads that it has not", "_pool.pyx",
        "pthread_atfork(NULL, NULL, begin)", "", "test_threads.py"),
    Bug("weights never packed as rows", "_dense.pxi",
        "return by_dots(1, n_in, n_out) < by_tiles(1, n_in, n_out)", "return False"),
    Bug("weights too large for the panel", "_dense.pxi",
        "n_out * padded(n_in) <= PANEL * <Py_ssize_t>LANES", "True"),
    Bug("strips of a large B all alike", "_products.pxi",
        "                at = p * b_row + j\n", "                at = p * b_row\n"),
    Bug("wide strips of too many rows", "_products.pxi", "if m <= FEW and", "if m <= FEW + 1 and"),
    Bug("velocity of the first rows only", "_dense.pxi",
        "            a = A + at\n", "            a = A\n"),
    Bug("the derivative of ELU without alpha", "_activations.pxi",
        "broadcast(1), alpha * vec_exp(", "broadcast(1), vec_exp(", "test_activations.py"),
    Bug("a term of erfc too few", "_activations.pxi",
        "last = ERFC_SHORT - 1 if", "last = ERFC_SHORT - 3 if", "test_activations.py"),
    Bug("the slope of GELU at 0 is 0 / 0", "_activations.pxi",
        "choose(<lanes>(magnitude(x) > TINY), y / near, broadcast(0.5))", "y / near",
        "test_activations.py"),
    Bug("GELU without the rest of the square", "_activations.pxi",
        "(x - h) * (x + h) * <real>-0.5", "broadcast(0)", "test_activations.py"),
    Bug("variance not of the mean", "_layer_norm.pxi",
        "sum_over(x, width, mean, True)", "sum_over(x, width, 0, True)", "test_layer_norm.py"),
    Bug("gradients of a layer norm's weight not added", "_layer_norm.pxi",
        "            if add:\n", "            if False:\n", "test_layer_norm.py"),
    Bug("a round of random numbers too few", "_dropout.pxi",
        "    ROUNDS = 10", "    ROUNDS = 9", "test_dropout.py"),
    Bug("each call of dropout begins anew", "_dropout.pxi",
        "skip = first % (4 * STREAM)", "skip = 0", "test_dropout.py"),
    Bug("a network's dropout drops the same in every step", "_engine.pyx",
        "                op.seen[0] += <uint64_t>(n * op.n_out)\n", "", "test_engine.py"),
    Bug("a network's dropout drops the same in every block", "_engine.pyx",
        "op.first + <uint64_t>(self.first_row * op.n_out)", "op.first", "test_engine.py"),
    Bug("a frozen layer's biases move", "_engine.pyx",
        "            if op.trains == NULL or op.trains[0] == 0:\n                continue\n"
        "            if op.kind == DENSE:",
        "            if op.trains == NULL:\n                continue\n"
        "            if op.kind == DENSE:", "test_engine.py"),
    Bug("a step with the arrays of another list of layers", "optimizers.py",
        "_ops.same_objects(self.layers, layers)", "len(self.layers) == len(layers)",
        "test_layers.py"),
    Bug("gathered gradients wait on after an interrupted step", "_trainer.py",
        "            if _ops.counts(self.optimizer.taken, steps):\n", "            if True:\n",
        "test_interrupts.py"),
    Bug("an option is shown before it counts", "optimizers.py",
        "        optimizer.version += 1\n",
        "        setattr(optimizer, key, number)\n        optimizer.version += 1\n",
        "test_interrupts.py"),
    Bug("parameters are loaded one by one", "_torch.py",
        "    _ops.at_once(copying(parameters.values(), found))\n",
        "    for call in copying(parameters.values(), found):\n        _ops.at_once([call])\n",
        "test_interrupts.py"),
    Bug("velocities that were forgotten come back", "_trainer.py",
        "if known is not None and known[2] is optimizer._states:", "if known is not None:",
        "test_optimizers.py"),
    Bug("gathered gradients changed before their step is sure", "_trainer.py",
        "                pending = self._gathered(",
        "                pending = self._pending = self._gathered(",
        OUT_OF_MEMORY.format("train_step layer by layer after gathered gradients")),
    Bug("a file that is open before anybody would remove it", "_files.py",
        "    try:\n        with open(name, \"xb\") as file:\n            yield file\n    finally:\n"
        "        try:                            # at once: Ctrl-C could come between longer ways\n"
        "            os.unlink(name)\n        except FileNotFoundError:\n            pass\n",
        "    with open(name, \"xb\") as file:\n        try:\n            yield file\n"
        "        finally:\n            os.unlink(name)\n", OUT_OF_MEMORY.format("save")),
    Bug("memory is needed to end reading", "_engine.pyx",
        "def __exit__(self, kind, error, trace):", "def __exit__(self, *error):",
        OUT_OF_MEMORY.format("train_step layer by layer")),
    Bug("an address by way of Python", "_engine.pyx",
        "<size_t>cnp.PyArray_BYTES(raw)", "<size_t>raw.ctypes.data",
        OUT_OF_MEMORY.format("train_step")),
    Bug("gradients not handed over once", "losses.py",
        "        self._gradient = None\n        return", "        return", "test_bad_inputs.py"),
    Bug("ranks: the update divides by this rank's weights", "_distributed.py",
        "self._update(sums, step.waiting, place)", "self._update(sums, waiting, place)",
        "test_mpi.py"),
    Bug("ranks: the loss is this rank's", "_distributed.py",
        "self.trainer.reported(step.total, step", "self.trainer.reported(local.total, step",
        "test_mpi.py"),
    Bug("ranks: what is left over is nobody's", "_ranks.py",
        "start + each + (self.rank < more)", "start + each", "test_mpi.py"),
    Bug("ranks: each begins with its own parameters", "_distributed.py",
        "            if self.ranks.rank:\n", "            if False:\n", "test_mpi.py"),
    Bug("ranks: what callbacks did to parameters is not passed on", "_distributed.py",
        "        _ops.at_once(copying((value for _, value, _ in self.network.parameters()),\n"
        "                             decisions[\"parameters\"]))\n", "", "test_mpi.py"),
    Bug("ranks: all drop the same entries", "_ranks.py",
        "self.seed = self.rank * GOLDEN % 2**64", "self.seed = 0", "test_mpi.py"),
    Bug("ranks: dropout stands elsewhere after a stop", "_distributed.py",
        "layer._seen[0] = max(seen)", "pass", "test_mpi.py"),
    Bug("ranks: orders stand elsewhere after a stop", "_distributed.py",
        "            set_random_state(self.orders.bit_generator, found[0][0])", "            pass",
        "test_mpi.py"),
    Bug("ranks: an error is not told", "_distributed.py",
        "self.more, self.error is not None,", "self.more, False,", "test_mpi.py"),
    Bug("ranks: classes are balanced by this rank's labels", "_trainer.py",
        "for some in [own] if others is None else others.exchange(own):", "for some in [own]:",
        "test_mpi.py"),
    Bug("ranks: an empty part adds older gradients", "_engine.pyx",
        "            self.gathered[:self.size] = 0\n", "", "test_mpi.py", "float64"),
    Bug("every batch size has a way of its own", "_dense.pxi",
        "return n if n < 16 else 20 if n < 32 else 44 if n < 64 else 128", "return n",
        "test_determinism.py"),
    Bug("the last block of a prediction is what is left", "_engine.pyx",
        "some = evenly(n - first, block)     # no", "some = min(n - first, block)     # no",
        "test_determinism.py"),
    Bug("a second thread may begin to train", "_engine.pyx",
        "while self.depth and not self.is_mine() or self.writing or", "while self.writing or",
        "test_concurrency.py"),
    Bug("what reads parameters does not ask who writes", "_engine.pyx",
        "        while self.writing and not self.is_mine():\n", "        while False:\n",
        "test_concurrency.py"),
    Bug("a prediction does not ask who writes", "_engine.pyx",
        "        self.use.check_reading()        # asked last", "        pass    # asked last",
        "test_concurrency.py"),
    Bug("measuring lets others train between its parts", "_trainer.py",
        "        with self._use:                     # all of them",
        "        if True:    # all of them",
        "test_concurrency.py"),
    Bug("what threads did before a fork is not forgotten", "_engine.pyx",
        "        if self.process == getpid():\n", "        if True:\n", "test_concurrency.py"),
    Bug("networks in use are taken into others", "_engine.pyx",
        "        while self.depth or self.reading or self.writing:\n", "        while False:\n",
        "test_network.py"),
    Bug("a long prediction looks for no signal", "_engine.pyx",
        "while first < n and done < WORK_BETWEEN_SIGNALS:", "while first < n:",
        "test_concurrency.py"),
    Bug("signals are looked after between epochs alone", "_engine.pyx",
        "if work > WORK_BETWEEN_SIGNALS and first < n:", "if False:", "test_concurrency.py"),
    Bug("dropout has seen a step that was not applied", "_engine.pyx",
        "                        self.count_entries(-some)", "                        pass",
        "test_bad_inputs.py"),
    Bug("dropout has seen a step by layers that was not applied", "_trainer.py",
        "                    self._network._put_back(before)", "                    pass",
        "test_interrupts.py"),
    Bug("a refused pass is remembered", "_layer.py",
        "({\"_memory\": memory},)", "({},)", "test_bad_inputs.py"),
    Bug("gradients change before an output is looked at", "network.py",
        "                _ops.check_out(out, given)", "                pass", "test_bad_inputs.py"),
    Bug("a schedule's first rate alone is looked at", "_engine.pyx",
        "for step in range(cnp.PyArray_DIM(self.rates, 0)):", "for step in range(1):",
        "test_bad_inputs.py"),
    Bug("operations may lie outside of the parameters", "_engine.pyx",
        "if not 0 <= place <= self.size - entries and (", "if False and (", "test_network.py"),
    Bug("a Softmax before a Flatten takes everything as one row", "network.py",
        "(WeightedLayer, Softmax, LogSoftmax)", "WeightedLayer", "test_network.py"),
    Bug("an unknown answer is a no", "_losses.pxi", "and T[i] == T[i]", "and True",
        "test_metrics.py"),
    Bug("networks never forget their layers", "network.py",
        "return weakref.ref(layer, partial(_networks.pop, id(layer)))", "return lambda: layer",
        "test_flat_memory.py"),
    Bug("estimators do not see masks", "sklearn.py",
        "        if holds_mask(value):\n", "        if False:\n", "test_bad_inputs.py"),
    Bug("estimators take what overflows", "sklearn.py",
        'taken: np.ndarray = as_floats(X, "X", self.network_.dtype)',
        "taken: np.ndarray = np.ascontiguousarray(X, self.network_.dtype)", "test_bad_inputs.py"),
    Bug("a number in place of rows, layer by layer", "_trainer.py",
        "        if found.ndim == 0:\n", "        if False:\n", "test_bad_inputs.py"),
]


def run(*command: str, tree: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command; what takes longer than LIMIT has the status of a process that was killed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", **more}
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)      # its children as well
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def build(tree: Path, dtypes: str) -> None:
    done = run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", tree=tree, DTYPES=dtypes)
    if done.returncode:
        sys.exit(f"the build failed:\n{done.stdout}{done.stderr}")


def caught(bug: Bug, tree: Path) -> bool:
    """Plant the bug, build, run its test file, and put things right again."""
    path = tree / "fastnet" / bug.file
    text = path.read_text()
    if bug.right not in text:
        sys.exit(f"{bug.name}: {bug.file} does not contain\n{bug.right}")
    modules = {module: module.read_bytes() for module in tree.glob("fastnet/*.so")}
    path.write_text(text.replace(bug.right, bug.wrong))
    if path.suffix != ".py":
        build(tree, bug.dtype)
    done = run(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
               f"tests/{bug.test}", tree=tree, FASTNET_OOM_EVERY="1")    # memory runs out anywhere
    path.write_text(text)
    for module, content in modules.items():     # after the source, to be newer than it
        module.write_bytes(content)
    # Status 1: a test failed. A crash or a hang (a negative status) is noticed as well.
    return done.returncode == 1 or done.returncode < 0


def missed_of(bugs: list[Bug], tree: Path) -> list[str]:
    """Plant one bug after the other in a tree; return the names of those that no test notices."""
    missed = []
    for bug in bugs:
        found = caught(bug, tree)
        print(f"{'caught' if found else 'MISSED'}  {bug.test:20}  {bug.name}", flush=True)
        if not found:
            missed.append(bug.name)
    return missed


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    today = word == "--today"
    if today:
        bugs = BUGS[date.today().toordinal() % 32::32]
    else:
        bugs = [bug for bug in BUGS if word in bug.name]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in ("fastnet", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        # There are many builds to come: one instruction set, the best, few optimizations, and after
        # the first build one float type at a time.
        setup = (ROOT / "setup.py").read_text()
        for right, quick in [("import platform\n", "import os\nimport platform\n"),
                             ("for isa in ISAS", f"for isa in [{_ops.isa!r}]"),
                             ("for dtype in DTYPES", 'for dtype in os.environ["DTYPES"].split()'),
                             ('"-O3", ', '"-O1", "-fexpensive-optimizations", ')]:
            assert right in setup
            setup = setup.replace(right, quick)
        (tree / "setup.py").write_text(setup)
        build(tree, "float32 float64")
        # (Not today: who sees some of them every day runs all tests every day.)
        for test in sorted({bug.test for bug in bugs if not today}):
            if run(sys.executable, "-m", "pytest", "-q", f"tests/{test}", tree=tree).returncode:
                sys.exit(f"{test} fails without any bug")
        # In two trees at a time: while one is built, the other one's tests run.
        twin = Path(folder) / "twin"
        shutil.copytree(tree, twin)
        with ThreadPoolExecutor(2) as pool:
            for some in pool.map(missed_of, [bugs[::2], bugs[1::2]], [tree, twin]):
                missed += some
    print(f"{len(bugs) - len(missed)} of {len(bugs)} seeded bugs caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
