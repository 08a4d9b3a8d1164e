/* Shuttles: plain frames from port to port, through both sides of a split ring, while Python waits for events.
 *
 * A shuttle is one direction of a queue pair whose two sides are in this process. Python lends it the state of both
 * flows, which wait, and takes it back before any other Python code runs. Each frame makes all of its moves: it is read
 * into a buffer, made available, taken, written, and given back, and both sides publish their index. Sides notify each
 * other as their events say: the first frame of a burst wakes the other side, which polls until the burst ends, and
 * then asks for notifications again.
 *
 * A shuttle stops before what is not plain and says which flow goes on: the flow then meets the frame, the chain or the
 * broken rule as if C were not there. Each word of the other side is loaded once, by an atomic load.
 */

#include "_heads.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NUM_MAX = 1024, FDS_MAX = 4096, EVENTS_MAX = 64, TURN = 64, MEMO = 8, NO_SLOT = -1 };
/* Why a shuttle stopped: there is no frame; or which flow has to go on. */
enum { IDLE, TURN_ENDS, READER, WRITER };

/* One side's views of the ring, and its private positions. */
typedef struct {
    Py_buffer desc, avail, used;
} Views;

typedef struct {
    PyObject *offer;   /* Python's function that calls `lend` if the shuttle can be used now; its owner keeps it */
    PyObject *objects; /* the arguments of `lend`, which the shuttle borrows from */
    int pending;       /* there may be more frames */
    int stopped;
    int towards_device;
    /* ports */
    int in, out;
    Fronts fronts;
    Judge judge;
    Front known_fronts[MEMO];
    Verdict known_heads[MEMO];
    double size_max;
    /* the ring */
    Views driver, device;
    Int num;
    uint16_t added, last_used;            /* driver: available index, next used element */
    uint16_t last_avail, avail_end, used; /* device: next available entry, available index last read, used index */
    int running;                          /* the side that sends polls, because it was notified in this burst */
    /* buffers */
    Py_buffer block, region; /* as driver and device see them */
    uint64_t block_base, region_base;
    Int room, pitch;
    Int head, slot; /* towards the device: the descriptor and the buffer that are used for each frame */
    int outstanding; /* the chain of the last frame was not taken back yet */
    int16_t slots[NUM_MAX]; /* towards the driver: buffer by head, or NO_SLOT */
    double usual;    /* average bytes of a frame */
    Int posted, posted_bytes, posted_min;
    /* what happened since it was lent */
    Int frames_in, bytes_in, frames_out, bytes_out, first_notes, second_notes, left;
    uint16_t taken[NUM_MAX];
} Shuttle;

/* The shuttles of a poller, by the descriptor that they read. */
typedef struct {
    Shuttle *by_fd[FDS_MAX];
    int end, pending;
} Table;

static const char SHUTTLE[] = "vnet.shuttle", TABLE[] = "vnet.shuttles";

/* ---------------------------------------------------------------- words of the ring */

/* Publish an index that moved by one to `new`, and return whether it passed the other side's event. */
static int publish(const Py_buffer *own, uint16_t new, const Py_buffer *other, Int event_at)
{
    atomic_thread_fence(memory_order_release);
    store16(own, IDX, new);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in `ask`, or with that of Python */
    return load16(other, event_at) == (uint16_t)(new - 1);
}

/* Ask for a notification at `event`. Return whether the other side's index has moved past it already. */
static int ask(const Py_buffer *own, Int event_at, uint16_t event, const Py_buffer *other)
{
    store16(own, event_at, event);
    atomic_thread_fence(memory_order_seq_cst);
    return load16(other, IDX) != event;
}

static Int used_event(const Shuttle *shuttle)
{
    return AVAIL_RING + shuttle->num;
}

static Int avail_event(const Shuttle *shuttle)
{
    return AVAIL_RING + 4 * shuttle->num;
}

/* ---------------------------------------------------------------- the moves of both sides */

/* Driver: make a buffer available. Returns whether the device is to be kicked. */
static int add(Shuttle *shuttle, Int head, uint64_t addr, Int size, uint64_t flags)
{
    store64(&shuttle->driver.desc, 2 * head, addr);
    store64(&shuttle->driver.desc, 2 * head + 1, (uint64_t)size | flags << 32);
    store16(&shuttle->driver.avail, AVAIL_RING + (shuttle->added & (shuttle->num - 1)), (uint16_t)head);
    return publish(&shuttle->driver.avail, ++shuttle->added, &shuttle->driver.used, avail_event(shuttle));
}

/* Device: find the next chain, of one descriptor with these flags. Returns its buffer, or NULL if it is not plain. */
static unsigned char *peek(Shuttle *shuttle, uint64_t kind, Int *head, Int *size)
{
    if (shuttle->last_avail == shuttle->avail_end) {
        const uint16_t index = load16(&shuttle->device.avail, IDX);
        const uint16_t ahead = index - shuttle->last_avail;
        if (ahead == 0 || ahead > shuttle->num)
            return NULL;
        shuttle->avail_end = index;
    }
    atomic_thread_fence(memory_order_acquire); /* after the load of the index */
    *head = load16(&shuttle->device.avail, AVAIL_RING + (shuttle->last_avail & (shuttle->num - 1)));
    if (*head >= shuttle->num)
        return NULL;
    const uint64_t addr = load64(&shuttle->device.desc, 2 * *head), word = load64(&shuttle->device.desc, 2 * *head + 1);
    *size = word & 0xFFFFFFFF;
    if ((word >> 32 & (NEXT | INDIRECT | WRITE)) != kind || *size == 0 || addr < shuttle->region_base)
        return NULL;
    const uint64_t at = addr - shuttle->region_base, end = (uint64_t)shuttle->region.len;
    return at > end || (uint64_t)*size > end - at ? NULL : (unsigned char *)shuttle->region.buf + at;
}

/* Device: give the chain of `peek` back. Returns whether the driver is to be called. */
static int complete(Shuttle *shuttle, Int head, Int written)
{
    const Int at = 2 + 2 * (shuttle->used & (shuttle->num - 1)); /* in words of 32 bits, the first of which has the index */
    shuttle->taken[shuttle->last_avail++ & (shuttle->num - 1)] = (uint16_t)head;
    store32(&shuttle->device.used, at - 1, (uint32_t)head);
    store32(&shuttle->device.used, at, (uint32_t)written);
    return publish(&shuttle->device.used, ++shuttle->used, &shuttle->device.avail, used_event(shuttle));
}

/* Driver: find the next used element. Returns 0 if there is not exactly one. */
static int peek_used(const Shuttle *shuttle, Int *head, Int *written)
{
    if ((uint16_t)(load16(&shuttle->driver.used, IDX) - shuttle->last_used) != 1)
        return 0;
    atomic_thread_fence(memory_order_acquire); /* after the load of the index */
    const Int at = 2 + 2 * (shuttle->last_used & (shuttle->num - 1));
    *head = load32(&shuttle->driver.used, at - 1);
    *written = load32(&shuttle->driver.used, at);
    return 1;
}

/* ---------------------------------------------------------------- ports */

static unsigned memo(const unsigned char *key, int size)
{
    unsigned hash = 0;
    for (int i = 0; i < size; i++)
        hash = hash * 31 + key[i];
    return (hash ^ hash >> 5) % MEMO;
}

/* Read a frame into a buffer, behind its front. Returns its bytes, 0 without a frame; -1 if it is not plain.
 *
 * The GIL is taken only to look into Python's caches. */
static Int receive(Shuttle *shuttle, unsigned char *buffer, Int room, PyThreadState **gil)
{
    const Int skip = shuttle->fronts.size - HEADER;
    const ssize_t got = read(shuttle->in, buffer + skip, (size_t)(room - skip));
    if (got < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    const Int size = skip + got;
    unsigned char lead[LEAD] = {0}, key[FRONT_KEY];
    memcpy(lead, buffer + skip, (size_t)(got < LEAD - skip ? got : LEAD - skip));
    shuttle->left = got;
    if ((size > shuttle->size_max && !lead[1]) || !make_key(&shuttle->fronts, lead, size, key))
        return -1;
    Front *front = &shuttle->known_fronts[memo(key, FRONT_KEY)];
    if (!has_front(front, key)) {
        PyEval_RestoreThread(*gil);
        const int plain = look_up_front(&shuttle->fronts, lead, key, front);
        PyErr_Clear();
        *gil = PyEval_SaveThread();
        if (plain != 1)
            return -1;
    }
    shuttle->left = 0;
    memcpy(buffer, front->front, (size_t)shuttle->fronts.size);
    shuttle->frames_in++;
    shuttle->bytes_in += size - HEADER;
    return size;
}

/* Write a frame. Returns 0 if it is not plain, or the kernel does not take it now. */
static int send_frame(Shuttle *shuttle, unsigned char *buffer, Int size, PyThreadState **gil)
{
    unsigned char head[HEAD];
    if (size < HEAD)
        return 0;
    memcpy(head, buffer, HEAD);
    Verdict *verdict = &shuttle->known_heads[memo(head, HEAD)];
    if (!has_verdict(verdict, head)) {
        PyEval_RestoreThread(*gil);
        const int plain = judge(&shuttle->judge, head, verdict);
        PyErr_Clear();
        *gil = PyEval_SaveThread();
        if (plain != 1)
            return 0;
    }
    if (size < verdict->low || size > verdict->high)
        return 0;
    struct iovec parts[2] = {{verdict->out, verdict->out_size}, {buffer + HEAD, (size_t)size - HEAD}};
    if (writev(shuttle->out, parts, 2) < 0)
        return 0;
    shuttle->frames_out++;
    shuttle->bytes_out += size - HEADER;
    return 1;
}

/* ---------------------------------------------------------------- shuttles */

/* Count a notification that is wanted, and let the side that gets it poll. Returns whether that side polls. */
static int wake(Shuttle *shuttle, int wanted)
{
    shuttle->first_notes += wanted;
    shuttle->running |= wanted;
    return shuttle->running;
}

/* Move a frame from the driver's port to the device's. */
static int carry_to_device(Shuttle *shuttle, PyThreadState **gil)
{
    Int head, written, size;
    if (shuttle->outstanding) {
        if (!peek_used(shuttle, &head, &written) || head != shuttle->head || written != 0)
            return READER;
        shuttle->last_used++;
        shuttle->outstanding = 0;
    }
    const uint64_t addr = shuttle->block_base + (uint64_t)(shuttle->slot * shuttle->pitch);
    size = receive(shuttle, (unsigned char *)shuttle->block.buf + shuttle->slot * shuttle->pitch, shuttle->room, gil);
    if (size <= 0)
        return size == 0 ? IDLE : READER;
    shuttle->outstanding = 1;
    if (!wake(shuttle, add(shuttle, shuttle->head, addr, size, 0)))
        return READER; /* the device asked for no notification, and gets none */
    unsigned char *frame = peek(shuttle, 0, &head, &size);
    if (frame == NULL || !send_frame(shuttle, frame, size, gil))
        return WRITER;
    shuttle->second_notes += complete(shuttle, head, 0);
    return TURN_ENDS;
}

/* Move a frame from the device's port to the driver's. */
static int carry_to_driver(Shuttle *shuttle, PyThreadState **gil)
{
    Int head, written, size;
    const Int wanted = (Int)((double)shuttle->posted_bytes / (shuttle->usual > 1 ? shuttle->usual : 1));
    if (2 * (wanted > shuttle->posted_min ? wanted : shuttle->posted_min) < shuttle->posted)
        return READER; /* the driver holds buffers back */
    unsigned char *frame = peek(shuttle, WRITE, &head, &size);
    if (frame == NULL || size <= LARGEST)
        return READER;
    size = receive(shuttle, frame, size, gil);
    if (size <= 0)
        return size == 0 ? IDLE : READER;
    frame[KERNEL_HEADER] = 1; /* num_buffers */
    frame[KERNEL_HEADER + 1] = 0;
    if (!wake(shuttle, complete(shuttle, head, size)))
        return READER;
    if (!peek_used(shuttle, &head, &written) || head >= shuttle->num || shuttle->slots[head] == NO_SLOT || written > shuttle->room)
        return WRITER;
    const Int at = shuttle->slots[head] * shuttle->pitch;
    if (!send_frame(shuttle, (unsigned char *)shuttle->block.buf + at, written, gil))
        return WRITER;
    shuttle->last_used++;
    shuttle->usual += ((double)written - shuttle->usual) / 16;
    shuttle->second_notes += add(shuttle, head, shuttle->block_base + (uint64_t)at, shuttle->room, WRITE);
    return TURN_ENDS;
}

/* The burst is over: the side that sent asks for notifications again. */
static void end_burst(Shuttle *shuttle)
{
    if (!shuttle->running)
        return;
    shuttle->running = 0;
    const int more = shuttle->towards_device ? ask(&shuttle->device.used, avail_event(shuttle), shuttle->avail_end, &shuttle->device.avail)
                                          : ask(&shuttle->driver.avail, used_event(shuttle), shuttle->last_used, &shuttle->driver.used);
    if (more && shuttle->stopped == IDLE)
        shuttle->stopped = WRITER;
}

/* Move up to a turn of frames. */
static void run_shuttle(Shuttle *shuttle, PyThreadState **gil)
{
    int moved = TURN_ENDS;
    for (int i = 0; i < TURN && moved == TURN_ENDS; i++)
        moved = shuttle->towards_device ? carry_to_device(shuttle, gil) : carry_to_driver(shuttle, gil);
    shuttle->pending = moved == TURN_ENDS;
    shuttle->stopped = moved == TURN_ENDS ? IDLE : moved;
    if (moved != TURN_ENDS)
        end_burst(shuttle);
}

/* ---------------------------------------------------------------- waiting */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Run the shuttle of a descriptor. Returns whether Python has to handle its event, or what the shuttle leaves. */
static int serve(Table *table, int fd, PyThreadState **gil)
{
    Shuttle *shuttle = fd < FDS_MAX ? table->by_fd[fd] : NULL;
    if (shuttle == NULL)
        return 1;
    table->pending -= shuttle->pending;
    shuttle->pending = 0;
    if (shuttle->objects == NULL) {
        PyEval_RestoreThread(*gil);
        PyObject *done = PyObject_CallNoArgs(shuttle->offer);
        Py_XDECREF(done);
        PyErr_Clear();
        *gil = PyEval_SaveThread();
        if (shuttle->objects == NULL)
            return 1;
    }
    run_shuttle(shuttle, gil);
    table->pending += shuttle->pending;
    return shuttle->stopped != IDLE;
}

/* wait(epoll, stop, seconds, table) -> [descriptors], for Python to handle
 *
 * Wait for events of an epoll set, and run shuttles, until `stop` is readable, the time is over, or Python has to handle an
 * event, or what a shuttle leaves. The shuttles that Python has lent stay lent. */
static PyObject *wait_events(PyObject *Py_UNUSED(self), PyObject *args)
{
    int epoll, stop, stops = 0, count, others[2 * EVENTS_MAX], rest = 0;
    double seconds;
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "iidO", &epoll, &stop, &seconds, &capsule))
        return NULL;
    Table *table = PyCapsule_GetPointer(capsule, TABLE);
    if (table == NULL)
        return NULL;
    const double end = now() + seconds;
    PyThreadState *gil = PyEval_SaveThread();
    do {
        struct epoll_event events[EVENTS_MAX];
        const double left = table->pending ? 0 : end - now();
        count = epoll_wait(epoll, events, EVENTS_MAX, left > 0 ? (int)(left * 1e3) + 1 : 0);
        const int pending = table->pending;
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == stop)
                stops = 1;
            else if (serve(table, events[i].data.fd, &gil))
                others[rest++] = events[i].data.fd;
        }
        for (int fd = 0; pending && fd < table->end && rest < 2 * EVENTS_MAX; fd++)
            if (table->by_fd[fd] != NULL && table->by_fd[fd]->pending && serve(table, fd, &gil))
                others[rest++] = fd;
    } while (!stops && !rest && count >= 0 && now() < end);
    PyEval_RestoreThread(gil);
    PyObject *result = PyList_New(0);
    for (int i = 0; result != NULL && i < rest; i++) {
        PyObject *fd = PyLong_FromLong(others[i]);
        if (fd == NULL || PyList_Append(result, fd) < 0)
            Py_CLEAR(result);
        Py_XDECREF(fd);
    }
    return result;
}

/* ---------------------------------------------------------------- lending */

static void give_up(Shuttle *shuttle)
{
    Py_buffer *all[] = {&shuttle->driver.desc, &shuttle->driver.avail, &shuttle->driver.used, &shuttle->device.desc,
                        &shuttle->device.avail, &shuttle->device.used, &shuttle->block, &shuttle->region};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        PyBuffer_Release(all[i]);
    Py_CLEAR(shuttle->objects);
}

static int holds(const Views *views, Int num)
{
    return num > 0 && num <= NUM_MAX && (num & (num - 1)) == 0 && views->desc.len >= 16 * num
           && views->avail.len >= 2 * num + 6 && views->used.len >= 8 * num + 6 && (uintptr_t)views->desc.buf % 8 == 0
           && (uintptr_t)views->avail.buf % 2 == 0 && (uintptr_t)views->used.buf % 4 == 0;
}

/* lend(shuttle, ...): lend a shuttle the state of both flows; see `Shuttle` for the arguments */
static PyObject *lend(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *capsule, *tokens;
    Shuttle new = {0};
    if (!PyArg_ParseTuple(args, "OiiiOiOdOOOiw*w*w*w*w*w*LHHHHHw*Kw*KLLLLO!dLLL", &capsule, &new.towards_device, &new.in,
                          &new.out, &new.fronts.fronts, &new.fronts.size, &new.fronts.verdicts, &new.size_max,
                          &new.judge.known, &new.judge.heads, &new.judge.exceptions, &new.judge.single, &new.driver.desc,
                          &new.driver.avail, &new.driver.used, &new.device.desc, &new.device.avail, &new.device.used,
                          &new.num, &new.added, &new.last_used, &new.last_avail, &new.avail_end, &new.used, &new.block,
                          &new.block_base, &new.region, &new.region_base, &new.room, &new.pitch, &new.head, &new.slot,
                          &PyList_Type, &tokens, &new.usual, &new.posted, &new.posted_bytes, &new.posted_min))
        return NULL;
    Shuttle *shuttle = PyCapsule_GetPointer(capsule, SHUTTLE);
    new.objects = Py_NewRef(args);
    int good = shuttle != NULL && shuttle->objects == NULL && holds(&new.driver, new.num) && holds(&new.device, new.num)
               && PyList_Size(tokens) >= new.num && new.room > LARGEST && new.pitch >= new.room
               && (new.towards_device ? new.head >= 0 && new.head < new.num && covers(&new.block, new.slot * new.pitch, new.room) : 1);
    for (Int head = 0; good && head < new.num; head++) {
        PyObject *token = PyList_GetItem(tokens, (Py_ssize_t)head);
        const Int slot = token == Py_None ? NO_SLOT : PyLong_AsLongLong(token);
        good = token == Py_None || (slot >= 0 && covers(&new.block, slot * new.pitch, new.room));
        new.slots[head] = (int16_t)slot;
    }
    if (!good) {
        give_up(&new);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a shuttle can't use this state");
        return NULL;
    }
    new.offer = shuttle->offer;
    *shuttle = new;
    Py_RETURN_NONE;
}

/* take_back(shuttle) -> positions and figures, as `Shuttle.take_back` in Python reads them; None if nothing is lent */
static PyObject *take_back(PyObject *Py_UNUSED(self), PyObject *capsule)
{
    Shuttle *l = PyCapsule_GetPointer(capsule, SHUTTLE);
    if (l == NULL)
        return NULL;
    if (l->objects == NULL)
        Py_RETURN_NONE;
    end_burst(l);
    const Int moved = l->towards_device ? l->frames_out : l->frames_in, count = moved < l->num ? moved : l->num;
    PyObject *taken = PyList_New(0);
    for (Int i = count; taken != NULL && i > 0; i--) {
        PyObject *head = PyLong_FromLong(l->taken[(l->last_avail - i) & (l->num - 1)]);
        if (head == NULL || PyList_Append(taken, head) < 0)
            Py_CLEAR(taken);
        Py_XDECREF(head);
    }
    give_up(l);
    return taken == NULL ? NULL
                         : Py_BuildValue("(iLLLLLLLiHHHHHdN)", l->stopped, l->left, l->frames_in, l->bytes_in, l->frames_out,
                                         l->bytes_out, l->first_notes, l->second_notes, l->outstanding, l->added,
                                         l->last_used, l->last_avail, l->avail_end, l->used, l->usual, taken);
}

/* ---------------------------------------------------------------- module */

static void free_shuttle(PyObject *capsule)
{
    Shuttle *shuttle = PyCapsule_GetPointer(capsule, SHUTTLE);
    give_up(shuttle);
    PyMem_Free(shuttle);
}

static PyObject *new_shuttle(PyObject *Py_UNUSED(self), PyObject *offer)
{
    Shuttle *shuttle = PyMem_Calloc(1, sizeof *shuttle);
    if (shuttle == NULL)
        return PyErr_NoMemory();
    shuttle->offer = offer;
    return PyCapsule_New(shuttle, SHUTTLE, free_shuttle);
}

static void free_table(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, TABLE));
}

static PyObject *new_table(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
    Table *table = PyMem_Calloc(1, sizeof *table);
    return table == NULL ? PyErr_NoMemory() : PyCapsule_New(table, TABLE, free_table);
}

/* set_shuttle(table, fd, shuttle or None): the caller keeps the shuttle while it is in the table */
static PyObject *set_shuttle(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *capsule, *shuttle;
    int fd;
    if (!PyArg_ParseTuple(args, "OiO", &capsule, &fd, &shuttle))
        return NULL;
    Table *table = PyCapsule_GetPointer(capsule, TABLE);
    Shuttle *new = table == NULL || shuttle == Py_None ? NULL : PyCapsule_GetPointer(shuttle, SHUTTLE);
    if (PyErr_Occurred())
        return NULL;
    if (fd < 0 || fd >= FDS_MAX)
        Py_RETURN_FALSE;
    if (table->by_fd[fd] != NULL)
        table->pending -= table->by_fd[fd]->pending;
    table->by_fd[fd] = new;
    table->end = fd < table->end ? table->end : fd + 1;
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"wait", wait_events, METH_VARARGS, NULL},   {"lend", lend, METH_VARARGS, NULL},
    {"take_back", take_back, METH_O, NULL},      {"new_shuttle", new_shuttle, METH_O, NULL},
    {"new_table", new_table, METH_NOARGS, NULL}, {"set_shuttle", set_shuttle, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_shuttles", "Plain frames from port to port.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__shuttles(void)
{
    return PyModuleDef_Init(&definition);
}
