/* Heads of frames, as Python has judged them: both directions of a TUN or TAP port.
 *
 * A frame is plain if its heads are known: Python has judged another frame with the same ones, and keeps the verdict in
 * a dictionary. The functions look into Python's dictionaries, so that what Python forgets is forgotten here as well.
 */

#include "../../../../rings/native/_base.h"

#include <errno.h>
#include <unistd.h>

enum {
    HEADER = 12,             /* virtio_net_hdr */
    KERNEL_HEADER = 10,      /* the part of it that the kernel fills */
    HEAD = HEADER + 14,      /* with the Ethernet header */
    LEAD = HEAD + 40,        /* up to the end of an IPv6 header */
    FILTER_AT = HEADER, FILTER_END = HEAD + 2,
    IPV4_TO = HEAD + 16, IPV4_END = HEAD + 20, IPV6_TO = HEAD + 24, IPV6_END = HEAD + 40,
    LARGEST = HEAD + 16 + 0xFFFF, /* with VLAN tags: no frame of an interface is larger */
    FRONT_KEY = HEAD + 16,
    MEMO = 8,                /* recent heads that are remembered, by a hash */
};

static unsigned memo(const unsigned char *key, int size)
{
    unsigned hash = 0;
    for (int i = 0; i < size; i++)
        hash = hash * 31 + key[i];
    return (hash ^ hash >> 5) % MEMO;
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

static int has_verdict(const Verdict *verdict, const unsigned char *head)
{
    return verdict->valid && memcmp(head, verdict->head, HEAD) == 0;
}

/* Look up the verdict of `head`. Returns 0 if Python has to judge the frame, -1 with an exception. */
static int judge(const Judge *judge, const unsigned char *head, Verdict *verdict)
{
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

/* Return the verdict of a frame if it is plain, else NULL. `known` are the verdicts of recent heads.
 *
 * `gil`: state of a caller that has released the GIL, which is taken to look into Python's caches; NULL if it is held. */
static const Verdict *find_verdict(const Judge *caches, Verdict *known, const unsigned char *frame, Int size,
                                   PyThreadState **gil)
{
    unsigned char head[HEAD];
    if (size < HEAD)
        return NULL;
    memcpy(head, frame, HEAD);
    Verdict *verdict = &known[memo(head, HEAD)];
    if (!has_verdict(verdict, head)) {
        if (gil != NULL)
            PyEval_RestoreThread(*gil);
        const int plain = judge(caches, head, verdict);
        PyErr_Clear();
        if (gil != NULL)
            *gil = PyEval_SaveThread();
        if (plain != 1)
            return NULL;
    }
    return size < verdict->low || size > verdict->high ? NULL : verdict;
}

/* ---------------------------------------------------------------- towards the ring */

/* What starts a frame for the ring, by all of the frame that decides it. */
typedef struct {
    int valid;
    unsigned char key[FRONT_KEY], front[HEAD];
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

/* Set `key` to all of a frame of `size` bytes that decides its front. Returns 0 if Python has to judge the frame. */
static int make_key(const Fronts *fronts, const unsigned char *lead, Int size, unsigned char *key)
{
    Int end = FILTER_END;
    memset(key, 0, FRONT_KEY);
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
    return size >= end; /* else the rest of the key was not in the frame */
}

static int has_front(const Front *front, const unsigned char *key)
{
    return front->valid && memcmp(key, front->key, FRONT_KEY) == 0;
}

/* Look up the front of a frame with this key. Returns 0 if Python has to judge the frame, -1 with an exception. */
static int look_up_front(const Fronts *fronts, const unsigned char *lead, const unsigned char *key, Front *front)
{
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
    memcpy(front->key, key, FRONT_KEY);
    front->valid = 1;
    return 1;
}

/* A port that frames are read from, the fronts of recent frames, and what was read. */
typedef struct {
    int fd;
    Fronts fronts;
    double size_max; /* of header and frame without GSO */
    Front known[MEMO];
    Int frames, bytes; /* without headers */
    Int left; /* bytes of a frame that was read and is not plain; 0 without one */
} Source;

/* Read a frame into a buffer, behind its front. Returns its bytes, 0 without a frame; -1 if it is not plain.
 *
 * The caller has released the GIL, which is taken only to look into Python's caches. */
static Int read_frame(Source *source, unsigned char *buffer, Int room, PyThreadState **gil)
{
    const Int skip = source->fronts.size - HEADER;
    const ssize_t got = read(source->fd, buffer + skip, (size_t)(room - skip));
    source->left = got < 0 ? 0 : got;
    if (got < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    const Int size = skip + got;
    unsigned char lead[LEAD] = {0}, key[FRONT_KEY];
    memcpy(lead, buffer + skip, (size_t)(got < LEAD - skip ? got : LEAD - skip));
    if ((size > source->size_max && !lead[1]) || !make_key(&source->fronts, lead, size, key))
        return -1;
    Front *front = &source->known[memo(key, FRONT_KEY)];
    if (!has_front(front, key)) {
        PyEval_RestoreThread(*gil);
        const int plain = look_up_front(&source->fronts, lead, key, front);
        PyErr_Clear();
        *gil = PyEval_SaveThread();
        if (plain != 1)
            return -1;
    }
    memcpy(buffer, front->front, (size_t)source->fronts.size);
    source->left = 0;
    source->frames++;
    source->bytes += size - HEADER;
    return size;
}
