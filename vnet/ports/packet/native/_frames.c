/* The plain path of a TUN or TAP port: batches of frames between its descriptor and buffers in memory.
 *
 * The functions stop before a frame that is not plain, or that the kernel does not take: Python sends that one, counts
 * its drop, or raises. A frame that was read, but is not plain, is left in its buffer for Python to judge.
 *
 * The other side may change a buffer at any time: heads are copied once, and the copies are judged and passed on.
 */

#include "_heads.h"

#include <sys/uio.h>

enum { BATCH_MAX = 64 };
enum { NO_FRAME = -1, NOT_PLAIN = -2 }; /* why `recv_each` stopped */

static int covers(const Py_buffer *view, Int at, Int size)
{
    return at >= 0 && size >= 0 && at <= view->len && size <= view->len - at;
}

/* Take the numbers of sequence[at], a tuple of `count` numbers. */
static int take_numbers(PyObject *sequence, Py_ssize_t at, int count, Int *numbers)
{
    PyObject *item = PySequence_GetItem(sequence, at);
    for (int i = 0; item != NULL && i < count; i++) {
        PyObject *number = PyTuple_GetItem(item, i);
        numbers[i] = number == NULL ? -1 : PyLong_AsLongLong(number);
        if (PyErr_Occurred())
            Py_CLEAR(item);
    }
    Py_XDECREF(item);
    return item != NULL;
}

/* ---------------------------------------------------------------- from the ring */

/* send_each(fd, view, frames, known, heads, exceptions, single, pitch) -> (sent, bytes)
 *
 * Send the frames in `view`: tuples (any, offset, bytes), or (slot, bytes) if slots are `pitch` bytes apart. `known`
 * has the verdicts of heads as `drivers.devices.net.header.Verdict`; heads in `exceptions`, and with `single` those of
 * frames in several buffers, are Python's. Bytes do not count the virtio_net_hdr. */
static PyObject *send_each(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int fd, v[2], n[3];
    Py_buffer view;
    if (!has_count(given, 8) || !take_ints(args, 1, &fd) || !take_ints(args + 6, 2, v))
        return NULL;
    const Judge caches = {args[3], args[4], args[5], v[0] != 0};
    const Int pitch = v[1];
    Py_ssize_t count = PySequence_Size(args[2]);
    if (count < 0 || PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    struct iovec parts[BATCH_MAX][2];
    unsigned char outs[BATCH_MAX][HEAD];
    Verdict known[MEMO] = {0};
    int ready = 0, plain = 1;
    for (; ready < count && ready < BATCH_MAX; ready++) {
        if (!take_numbers(args[2], ready, pitch ? 2 : 3, n)) {
            plain = -1;
            break;
        }
        const Int at = pitch ? n[0] * pitch : n[1], size = pitch ? n[1] : n[2];
        const unsigned char *frame = (const unsigned char *)view.buf + at;
        const Verdict *verdict = covers(&view, at, size) ? find_verdict(&caches, known, frame, size, NULL) : NULL;
        if (verdict == NULL)
            break;
        memcpy(outs[ready], verdict->out, verdict->out_size);
        parts[ready][0] = (struct iovec){outs[ready], verdict->out_size};
        parts[ready][1] = (struct iovec){(char *)view.buf + at + HEAD, (size_t)size - HEAD};
    }
    int sent = 0;
    Int octets = 0;
    if (plain >= 0) {
        Py_BEGIN_ALLOW_THREADS
        for (; sent < ready && writev((int)fd, parts[sent], 2) >= 0; sent++)
            octets += HEAD - HEADER + (Int)parts[sent][1].iov_len;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return plain < 0 ? NULL : Py_BuildValue("(iL)", sent, octets);
}

/* ---------------------------------------------------------------- towards the ring */

/* recv_each(fd, view, targets, limit, budget, addrs, base, room, fronts, front_size, size_max, verdicts, one_buffer)
 *     -> ([(head, bytes)] or [(address, bytes, slot)], bytes without virtio_net_hdr, why it stopped)
 *
 * Read frames into `view`, up to `limit` or `budget` bytes. Targets are the tuples (head, offset, bytes) if `addrs` is
 * None; else slots of `room` bytes, the last one first, with their addresses, and `view` begins at `base`. Frames
 * without GSO are not larger than `size_max` with the header. `one_buffer`: set num_buffers to 1.
 *
 * Why it stopped: NO_FRAME; NOT_PLAIN, also if all is done; or the bytes that were read into the next target, behind
 * the port's front, which Python has to judge. */
static PyObject *recv_each(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[2], w[2], fd, front_size, one_buffer, n[3] = {0};
    Py_buffer view;
    if (!has_count(given, 13) || !take_ints(args, 1, &fd) || !take_ints(args + 3, 2, v) || !take_ints(args + 6, 2, w)
        || !take_ints(args + 9, 1, &front_size) || !take_ints(args + 12, 1, &one_buffer))
        return NULL;
    const double size_max = PyFloat_AsDouble(args[10]);
    const Py_ssize_t count = PySequence_Size(args[2]);
    PyObject *addrs = args[5];
    if (PyErr_Occurred() || PyObject_GetBuffer(args[1], &view, PyBUF_WRITABLE) < 0)
        return NULL;
    const Int limit = v[0] < count ? v[0] : count, budget = v[1];
    Source source = {.fd = (int)fd, .fronts = {args[8], args[11], front_size}, .size_max = size_max};
    PyObject *done = PyList_New(0);
    Int total = 0, stopped = NOT_PLAIN;
    int failed = done == NULL;
    for (Int i = 0; !failed && i < limit && total < budget; i++) {
        Int head = 0, addr = 0, at, room;
        if (addrs == Py_None) {
            failed = !take_numbers(args[2], (Py_ssize_t)i, 3, n);
            head = n[0], at = n[1], room = n[2];
        } else {
            PyObject *slot = PySequence_GetItem(args[2], count - 1 - (Py_ssize_t)i);
            head = slot == NULL ? -1 : PyLong_AsLongLong(slot);
            Py_XDECREF(slot);
            PyObject *address = head < 0 ? NULL : PyList_GetItem(addrs, (Py_ssize_t)head);
            addr = address == NULL ? 0 : PyLong_AsLongLong(address);
            at = addr - w[0], room = w[1];
            failed = PyErr_Occurred() != NULL;
        }
        if (failed || room <= LARGEST || !covers(&view, at, room)) /* larger frames would be cut */
            break;
        unsigned char *buffer = (unsigned char *)view.buf + at;
        PyThreadState *gil = PyEval_SaveThread();
        const Int size = read_frame(&source, buffer, room, &gil);
        PyEval_RestoreThread(gil);
        if (size <= 0) {
            stopped = size == 0 ? NO_FRAME : source.left > 0 ? source.left : NOT_PLAIN;
            break;
        }
        if (one_buffer) {
            buffer[KERNEL_HEADER] = 1;
            buffer[KERNEL_HEADER + 1] = 0;
        }
        PyObject *tuple = addrs == Py_None ? Py_BuildValue("(LL)", head, size) : Py_BuildValue("(LLL)", addr, size, head);
        failed = tuple == NULL || PyList_Append(done, tuple) < 0;
        Py_XDECREF(tuple);
        total += size;
    }
    PyBuffer_Release(&view);
    PyObject *result = failed ? NULL : Py_BuildValue("(OLL)", done, source.bytes, stopped);
    Py_XDECREF(done);
    return result;
}

/* ---------------------------------------------------------------- module */

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {METHOD(send_each), METHOD(recv_each), {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_frames", "Batches of plain frames.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__frames(void)
{
    return PyModuleDef_Init(&definition);
}
