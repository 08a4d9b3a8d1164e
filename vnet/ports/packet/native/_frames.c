/* The plain path of a TUN or TAP port: batches of frames between its descriptor and buffers in memory.
 *
 * A frame is plain if its heads are known: Python has judged another frame with the same ones, and keeps the verdict in
 * a dictionary. The functions look into Python's dictionaries, so that what Python forgets is forgotten here as well.
 * They stop before a frame that is not plain, or that the kernel does not take: Python sends that one, counts its drop,
 * or raises. A frame that was read, but is not plain, is left in its buffer for Python to judge.
 *
 * The other side may change a buffer at any time: heads are copied once, and the copies are judged and passed on.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef long long Int;

enum {
    HEADER = 12,             /* virtio_net_hdr */
    KERNEL_HEADER = 10,      /* the part of it that the kernel fills */
    HEAD = HEADER + 14,      /* with the Ethernet header */
    LEAD = HEAD + 40,        /* up to the end of an IPv6 header */
    FILTER_AT = HEADER, FILTER_END = HEAD + 2,
    IPV4_TO = HEAD + 16, IPV4_END = HEAD + 20, IPV6_TO = HEAD + 24, IPV6_END = HEAD + 40,
    LARGEST = HEAD + 16 + 0xFFFF, /* with VLAN tags: no frame of an interface is larger */
    BATCH_MAX = 64,
};
enum { NO_FRAME = -1, NOT_PLAIN = -2 }; /* why `recv_each` stopped */

static int take_ints(PyObject *const *args, int count, Int *values)
{
    for (int i = 0; i < count; i++) {
        values[i] = PyLong_AsLongLong(args[i]);
        if (values[i] == -1 && PyErr_Occurred())
            return 0;
    }
    return 1;
}

static int has_count(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments wanted, %zd given", wanted, given);
    return given == wanted;
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

static int covers(const Py_buffer *view, Int at, Int size)
{
    return at >= 0 && size >= 0 && at <= view->len && size <= view->len - at;
}

/* ---------------------------------------------------------------- from the ring */

/* What replaces a known head, and the sizes of frames that may have it. */
typedef struct {
    int valid;
    unsigned char head[HEAD], out[HEAD];
    size_t out_size;
    Int low, high;
} Verdict;

/* The caches of Python: verdicts by head, then the port's replacement of a head that passed (None: the same). */
typedef struct {
    PyObject *known, *heads, *exceptions;
    int single;
} Judge;

/* Look up the verdict of `head`. Returns 0 if Python has to judge the frame, -1 with an exception. */
static int judge(const Judge *judge, const unsigned char *head, Verdict *verdict)
{
    if (verdict->valid && memcmp(head, verdict->head, HEAD) == 0)
        return 1;
    verdict->valid = 0;
    PyObject *key = PyBytes_FromStringAndSize((const char *)head, HEAD);
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(judge->known, key);
    int result = known == NULL ? 0 : 1;
    if (result && judge->exceptions != Py_None)
        result = 1 - PySet_Contains(judge->exceptions, key);
    Py_XDECREF(key);
    if (result != 1)
        return PyErr_Occurred() ? -1 : 0;
    Int low, high, spread;
    PyObject *out = PyTuple_GetItem(known, 2);
    if (out == NULL || !take_ints((PyObject *const[]){PyTuple_GetItem(known, 0)}, 1, &low)
        || !take_ints((PyObject *const[]){PyTuple_GetItem(known, 1)}, 1, &high)
        || !take_ints((PyObject *const[]){PyTuple_GetItem(known, 3)}, 1, &spread))
        return -1;
    if (judge->single && spread > 1)
        return 0;
    if (judge->heads != Py_None && (out = PyDict_GetItemWithError(judge->heads, out)) == NULL)
        return PyErr_Occurred() ? -1 : 0;
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(out, &bytes, &size) < 0)
        return -1;
    if (size > HEAD)
        return 0;
    memcpy(verdict->head, head, HEAD);
    memcpy(verdict->out, bytes, (size_t)size);
    verdict->out_size = (size_t)size;
    verdict->low = low;
    verdict->high = high;
    verdict->valid = 1;
    return 1;
}

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
    Verdict verdict = {0};
    int ready = 0, plain = 1;
    for (; ready < count && ready < BATCH_MAX; ready++) {
        if (!take_numbers(args[2], ready, pitch ? 2 : 3, n)) {
            plain = -1;
            break;
        }
        const Int at = pitch ? n[0] * pitch : n[1], size = pitch ? n[1] : n[2];
        if (size < HEAD || !covers(&view, at, size))
            break;
        unsigned char head[HEAD];
        memcpy(head, (const char *)view.buf + at, HEAD);
        plain = judge(&caches, head, &verdict);
        if (plain != 1 || size < verdict.low || size > verdict.high)
            break;
        memcpy(outs[ready], verdict.out, verdict.out_size);
        parts[ready][0] = (struct iovec){outs[ready], verdict.out_size};
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

/* What starts a frame for the ring, by all of the frame that decides it. */
typedef struct {
    int valid;
    unsigned char key[HEAD + 16], front[HEAD];
} Front;

typedef struct {
    PyObject *fronts, *verdicts; /* Python's caches; verdicts of the receive filter: None passes all */
    Int size;                    /* bytes that the port puts in front: HEAD for a TUN, HEADER for a TAP */
} Fronts;

/* Return the key of `fronts` for a complete frame that starts with `lead` behind the front that the port adds. */
static PyObject *front_key(const Fronts *fronts, const unsigned char *lead)
{
    if (fronts->size == HEADER)
        return PyBytes_FromStringAndSize((const char *)lead, KERNEL_HEADER);
    const unsigned char *packet = lead + HEADER; /* the IP packet, at HEAD of the frame */
    if (packet[0] >> 4 == 6)
        return Py_BuildValue("(y#By#)", lead, (Py_ssize_t)KERNEL_HEADER, packet[0], packet + IPV6_TO - HEAD, (Py_ssize_t)16);
    unsigned int to;
    memcpy(&to, packet + IPV4_TO - HEAD, sizeof to);
    return Py_BuildValue("(y#BI)", lead, (Py_ssize_t)KERNEL_HEADER, packet[0], to);
}

/* Find the front of a frame of `size` bytes. Returns 0 if Python has to judge the frame, -1 with an exception. */
static int find_front(const Fronts *fronts, const unsigned char *lead, Int size, Front *front)
{
    unsigned char key[sizeof front->key] = {0};
    Int end = FILTER_END;
    memcpy(key, lead, KERNEL_HEADER);
    if (fronts->size == HEADER) {
        memcpy(key + KERNEL_HEADER, lead + FILTER_AT, FILTER_END - FILTER_AT);
    } else {
        const unsigned char *packet = lead + HEADER;
        const int v6 = packet[0] >> 4 == 6;
        if (!v6 && packet[0] >> 4 != 4)
            return 0;
        end = v6 ? IPV6_END : IPV4_END;
        memcpy(key + KERNEL_HEADER, packet, FILTER_END - HEAD);
        memcpy(key + KERNEL_HEADER + FILTER_END - HEAD, packet + (v6 ? IPV6_TO : IPV4_TO) - HEAD, v6 ? 16 : 4);
    }
    if (size < end) /* the rest of the key was not in the frame */
        return 0;
    if (front->valid && memcmp(key, front->key, sizeof key) == 0)
        return 1;
    front->valid = 0;
    PyObject *known = front_key(fronts, lead);
    PyObject *found = known == NULL ? NULL : PyDict_GetItemWithError(fronts->fronts, known);
    Py_XDECREF(known);
    if (found == NULL)
        return PyErr_Occurred() ? -1 : 0;
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(found, &bytes, &length) < 0)
        return -1;
    if (length != fronts->size)
        return 0;
    memcpy(front->front, bytes, (size_t)length);
    if (fronts->verdicts != Py_None) {
        unsigned char start[FILTER_END - FILTER_AT];
        if (fronts->size == HEADER) {
            memcpy(start, lead + FILTER_AT, sizeof start);
        } else {
            memcpy(start, front->front + FILTER_AT, HEAD - FILTER_AT);
            memcpy(start + HEAD - FILTER_AT, lead + HEADER, FILTER_END - HEAD);
        }
        PyObject *head = PyBytes_FromStringAndSize((const char *)start, sizeof start);
        PyObject *cause = head == NULL ? NULL : PyDict_GetItemWithError(fronts->verdicts, head);
        Py_XDECREF(head);
        if (cause == NULL)
            return PyErr_Occurred() ? -1 : 0;
        const Py_ssize_t dropped = PyUnicode_GetLength(cause);
        if (dropped != 0)
            return dropped < 0 ? -1 : 0;
    }
    memcpy(front->key, key, sizeof key);
    front->valid = 1;
    return 1;
}

static ssize_t read_frame(int fd, unsigned char *buffer, Int room)
{
    ssize_t size;
    Py_BEGIN_ALLOW_THREADS
    size = read(fd, buffer, (size_t)room);
    Py_END_ALLOW_THREADS
    return size;
}

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
    const Int limit = v[0] < count ? v[0] : count, budget = v[1], skip = front_size - HEADER;
    const Fronts fronts = {args[8], args[11], front_size};
    Front front = {0};
    PyObject *done = PyList_New(0);
    Int total = 0, octets = 0, stopped = NOT_PLAIN;
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
        const ssize_t got = read_frame((int)fd, buffer + skip, room - skip);
        if (got < 0) {
            stopped = errno == EAGAIN || errno == EWOULDBLOCK ? NO_FRAME : NOT_PLAIN;
            break;
        }
        const Int size = skip + got;
        unsigned char lead[LEAD] = {0};
        memcpy(lead, buffer + skip, (size_t)(got < LEAD - skip ? got : LEAD - skip));
        const int plain = size > size_max && !lead[1] ? 0 : find_front(&fronts, lead, size, &front);
        if (plain != 1) {
            stopped = got;
            failed = plain < 0;
            break;
        }
        memcpy(buffer, front.front, (size_t)front_size);
        if (one_buffer) {
            buffer[KERNEL_HEADER] = 1;
            buffer[KERNEL_HEADER + 1] = 0;
        }
        PyObject *tuple = addrs == Py_None ? Py_BuildValue("(LL)", head, size) : Py_BuildValue("(LLL)", addr, size, head);
        failed = tuple == NULL || PyList_Append(done, tuple) < 0;
        Py_XDECREF(tuple);
        total += size;
        octets += size - HEADER;
    }
    PyBuffer_Release(&view);
    PyObject *result = failed ? NULL : Py_BuildValue("(OLL)", done, octets, stopped);
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
