/* Shuttles: plain frames between ports and a split ring, while Python waits for events.
 *
 * A shuttle is one direction of a queue pair: both of its sides, or the one in this process. Python lends it the state of
 * their flows, which wait, and takes it back before any other Python code runs. Each frame makes all of its moves: it is read
 * into a buffer, made available, taken, written, and given back, and each side publishes its index. Sides notify each other
 * as their events say: the first frame of a burst wakes the side that receives, which polls until the burst ends.
 *
 * A shuttle stops before what is not plain and says which flow goes on: the flow then meets the frame, the chain or the
 * broken rule as if C were not there. Each word of the other side is loaded once, by an atomic load.
 */

#include "_heads.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>

enum { NUM_MAX = 1024, FDS_MAX = 4096, EVENTS_MAX = 64, TURN = 64, NO_SLOT = -1 };
/* Why a shuttle stopped: there is no frame; or the other process has all buffers; or which flow has to go on. */
enum { IDLE, TURN_ENDS, STARVED, READER, WRITER };
enum { AVAIL_EVENT = 4 }; /* times the size of the ring: place of the event behind the used elements, in words of 16 bits */
/* The sides of a shuttle: the one that reads frames from its port, and the one that writes them to its port. */
enum { SENDS = 1, RECEIVES = 2, BOTH = SENDS | RECEIVES };

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
    int sides;
    int doorbell; /* eventfd of the side in another process; -1 if both are here */
    /* ports */
    Source in;
    int out;
    Judge judge;
    Verdict known_heads[MEMO];
    /* the ring */
    Views driver, device;
    Int num;
    uint16_t added, last_used;            /* driver: available index, next used element */
    uint16_t last_avail, avail_end, used; /* device: next available entry, available index last read, used index */
    int running;                          /* the side that receives polls, because it was notified in this burst */
    /* buffers */
    Py_buffer block, region; /* as driver and device see them */
    uint64_t block_base, region_base;
    Int room, pitch;
    Int head;               /* the driver's first free descriptor */
    int32_t next[NUM_MAX];  /* free descriptor behind a free one */
    int32_t slots[NUM_MAX]; /* buffer by head, or NO_SLOT */
    int32_t free[2 * NUM_MAX]; /* towards the device: free buffers, the next one last */
    Int free_count;
    double usual;    /* average bytes of a frame */
    Int posted, posted_bytes, posted_min;
    /* what happened since it was lent */
    Int frames_out, bytes_out, first_notes, second_notes, returned;
    int32_t taken[NUM_MAX];
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

/* Ask for a notification once the other side's index is more than `after` beyond `last`. Return whether it is already. */
static int ask(const Py_buffer *own, Int event_at, uint16_t last, uint16_t after, const Py_buffer *other)
{
    store16(own, event_at, (uint16_t)(last + after));
    atomic_thread_fence(memory_order_seq_cst);
    return (uint16_t)(load16(other, IDX) - last) > after;
}

/* ---------------------------------------------------------------- the moves of both sides */

/* Driver: make a buffer available. Returns whether the device is to be kicked. */
static int add(Shuttle *shuttle, Int head, uint64_t addr, Int size, uint64_t flags)
{
    store64(&shuttle->driver.desc, 2 * head, addr);
    store64(&shuttle->driver.desc, 2 * head + 1, (uint64_t)size | flags << 32);
    store16(&shuttle->driver.avail, AVAIL_RING + (shuttle->added & (shuttle->num - 1)), (uint16_t)head);
    return publish(&shuttle->driver.avail, ++shuttle->added, &shuttle->driver.used, AVAIL_RING + AVAIL_EVENT * shuttle->num);
}

/* Device: find the next chain, of one descriptor with these flags. Returns 0 without one, -1 if it is not plain. */
static int peek(Shuttle *shuttle, uint64_t kind, Int *head, unsigned char **frame, Int *size)
{
    if (shuttle->last_avail == shuttle->avail_end) {
        const uint16_t index = load16(&shuttle->device.avail, IDX);
        const uint16_t ahead = index - shuttle->last_avail;
        if (ahead == 0 || ahead > shuttle->num)
            return ahead == 0 ? 0 : -1;
        shuttle->avail_end = index;
    }
    atomic_thread_fence(memory_order_acquire); /* after the load of the index */
    *head = load16(&shuttle->device.avail, AVAIL_RING + (shuttle->last_avail & (shuttle->num - 1)));
    if (*head >= shuttle->num)
        return -1;
    const uint64_t addr = load64(&shuttle->device.desc, 2 * *head), word = load64(&shuttle->device.desc, 2 * *head + 1);
    *size = word & 0xFFFFFFFF;
    if ((word >> 32 & (NEXT | INDIRECT | WRITE)) != kind || *size == 0 || addr < shuttle->region_base)
        return -1;
    const uint64_t at = addr - shuttle->region_base, end = (uint64_t)shuttle->region.len;
    if (at > end || (uint64_t)*size > end - at)
        return -1;
    *frame = (unsigned char *)shuttle->region.buf + at;
    return 1;
}

/* Device: give the chain of `peek` back. Returns whether the driver is to be called. */
static int complete(Shuttle *shuttle, Int head, Int written)
{
    const Int at = 2 + 2 * (shuttle->used & (shuttle->num - 1)); /* in words of 32 bits, the first of which has the index */
    shuttle->taken[shuttle->last_avail++ & (shuttle->num - 1)] = (int32_t)head;
    store32(&shuttle->device.used, at - 1, (uint32_t)head);
    store32(&shuttle->device.used, at, (uint32_t)written);
    return publish(&shuttle->device.used, ++shuttle->used, &shuttle->device.avail, AVAIL_RING + shuttle->num);
}

/* Driver: find the next used element. Returns 0 without one, -1 if the device broke a rule. */
static int peek_used(const Shuttle *shuttle, Int *head, Int *written)
{
    const uint16_t ahead = load16(&shuttle->driver.used, IDX) - shuttle->last_used;
    if (ahead == 0 || ahead > (uint16_t)(shuttle->added - shuttle->last_used))
        return ahead == 0 ? 0 : -1;
    atomic_thread_fence(memory_order_acquire); /* after the load of the index */
    const Int at = 2 + 2 * (shuttle->last_used & (shuttle->num - 1));
    *head = load32(&shuttle->driver.used, at - 1);
    *written = load32(&shuttle->driver.used, at);
    return *head < shuttle->num && shuttle->slots[*head] != NO_SLOT ? 1 : -1;
}

/* Driver: take all used chains back that the device has only read. Returns 0 before one that is not plain. */
static int reclaim(Shuttle *shuttle)
{
    Int head, written;
    int used;
    while ((used = peek_used(shuttle, &head, &written)) > 0 && written == 0) {
        shuttle->free[shuttle->free_count++] = shuttle->slots[head];
        shuttle->slots[head] = NO_SLOT;
        shuttle->next[head] = (int32_t)shuttle->head;
        shuttle->head = head;
        shuttle->last_used++;
        shuttle->returned++;
    }
    return used == 0;
}

/* ---------------------------------------------------------------- ports */

/* Write a frame. Returns 0 if it is not plain, or the kernel does not take it now. */
static int send_frame(Shuttle *shuttle, unsigned char *buffer, Int size, PyThreadState **gil)
{
    const Verdict *verdict = find_verdict(&shuttle->judge, shuttle->known_heads, buffer, size, gil);
    if (verdict == NULL)
        return 0;
    struct iovec parts[2] = {{(void *)verdict->out, verdict->out_size}, {buffer + HEAD, (size_t)size - HEAD}};
    if (writev(shuttle->out, parts, 2) < 0)
        return 0;
    shuttle->frames_out++;
    shuttle->bytes_out += size - HEADER;
    return 1;
}

/* ---------------------------------------------------------------- shuttles */

/* Send a notification that is wanted to the other process. Returns how many. */
static int notify(const Shuttle *shuttle, int wanted)
{
    if (wanted && shuttle->doorbell >= 0)
        eventfd_write(shuttle->doorbell, 1); /* fails only if the other side has many to read already */
    return wanted;
}

/* Notify the side that receives if that is wanted. Returns whether it polls, or does so in another process. */
static int wake(Shuttle *shuttle, int wanted)
{
    shuttle->first_notes += notify(shuttle, wanted);
    shuttle->running |= wanted && shuttle->sides == BOTH;
    return shuttle->running || shuttle->sides == SENDS;
}

/* The most buffers that the device should have, of frames as they are usual. */
static Int most_posted(const Shuttle *shuttle)
{
    const Int wanted = (Int)((double)shuttle->posted_bytes / (shuttle->usual > 1 ? shuttle->usual : 1));
    return 2 * (wanted > shuttle->posted_min ? wanted : shuttle->posted_min);
}

/* Move a frame from the driver's port to the device's. */
static int carry_to_device(Shuttle *shuttle, PyThreadState **gil)
{
    Int head, size;
    unsigned char *frame;
    if (shuttle->sides & SENDS) {
        const int plain = reclaim(shuttle);
        const Int in_flight = (uint16_t)(shuttle->added - shuttle->last_used), most = most_posted(shuttle);
        if (!plain || !shuttle->free_count || in_flight >= (most < shuttle->num ? most : shuttle->num))
            return plain && shuttle->sides == SENDS ? STARVED : READER;
        const int32_t slot = shuttle->free[shuttle->free_count - 1];
        size = read_frame(&shuttle->in, (unsigned char *)shuttle->block.buf + slot * shuttle->pitch, shuttle->room, gil);
        if (size <= 0)
            return size == 0 ? IDLE : READER;
        shuttle->usual += ((double)size - shuttle->usual) / 16;
        head = shuttle->head;
        shuttle->head = shuttle->next[head];
        shuttle->slots[head] = slot;
        shuttle->free_count--;
        if (!wake(shuttle, add(shuttle, head, shuttle->block_base + (uint64_t)(slot * shuttle->pitch), size, 0)))
            return READER; /* the device asked for no notification, and gets none */
    }
    if (shuttle->sides & RECEIVES) {
        const int found = peek(shuttle, 0, &head, &frame, &size);
        if (found <= 0 || !send_frame(shuttle, frame, size, gil))
            return found == 0 && shuttle->sides == RECEIVES ? IDLE : WRITER;
        shuttle->second_notes += notify(shuttle, complete(shuttle, head, 0));
    }
    return TURN_ENDS;
}

/* Move a frame from the device's port to the driver's. */
static int carry_to_driver(Shuttle *shuttle, PyThreadState **gil)
{
    Int head, size;
    unsigned char *frame;
    if (most_posted(shuttle) < shuttle->posted)
        return shuttle->sides & SENDS ? READER : WRITER; /* the driver holds buffers back */
    if (shuttle->sides & SENDS) {
        const int found = peek(shuttle, WRITE, &head, &frame, &size);
        if (found <= 0 || size <= LARGEST)
            return found == 0 && shuttle->sides == SENDS ? STARVED : READER;
        size = read_frame(&shuttle->in, frame, size, gil);
        if (size <= 0)
            return size == 0 ? IDLE : READER;
        frame[KERNEL_HEADER] = 1; /* num_buffers */
        frame[KERNEL_HEADER + 1] = 0;
        if (!wake(shuttle, complete(shuttle, head, size)))
            return READER;
    }
    if (shuttle->sides & RECEIVES) {
        const int found = peek_used(shuttle, &head, &size);
        if (found == 0 && shuttle->sides == RECEIVES)
            return IDLE;
        const Int at = found > 0 ? shuttle->slots[head] * shuttle->pitch : 0;
        if (found <= 0 || size > shuttle->room || !send_frame(shuttle, (unsigned char *)shuttle->block.buf + at, size, gil))
            return WRITER;
        shuttle->last_used++;
        shuttle->returned++;
        shuttle->usual += ((double)size - shuttle->usual) / 16;
        shuttle->second_notes += notify(shuttle, add(shuttle, head, shuttle->block_base + (uint64_t)at, shuttle->room, WRITE));
    }
    return TURN_ENDS;
}

/* Ask for notifications of the driver or the device. Returns whether there is something for it already. */
static int rearm(const Shuttle *s, int driver, uint16_t after)
{
    return driver ? ask(&s->driver.avail, AVAIL_RING + s->num, s->last_used, after, &s->driver.used)
                  : ask(&s->device.used, AVAIL_RING + AVAIL_EVENT * s->num, s->avail_end, after, &s->device.avail);
}

/* The burst is over: the side that receives asks for notifications again. Returns whether there is more already. */
static int end_burst(Shuttle *shuttle)
{
    const int polled = shuttle->running;
    shuttle->running = 0;
    return polled && rearm(shuttle, !shuttle->towards_device, 0);
}

/* Move up to a turn of frames. */
static void run_shuttle(Shuttle *shuttle, PyThreadState **gil)
{
    int moved = TURN_ENDS;
    shuttle->running |= shuttle->sides == RECEIVES;
    for (int i = 0; i < TURN && moved == TURN_ENDS; i++)
        moved = shuttle->towards_device ? carry_to_device(shuttle, gil) : carry_to_driver(shuttle, gil);
    if (moved != TURN_ENDS && end_burst(shuttle) && moved == IDLE)
        moved = shuttle->sides == RECEIVES ? TURN_ENDS : WRITER;
    /* A driver goes on once the device has used most of its buffers. */
    const uint16_t most = shuttle->towards_device ? (uint16_t)(shuttle->added - shuttle->last_used) * 3 / 4 : 0;
    if (moved == STARVED && rearm(shuttle, shuttle->towards_device, most))
        moved = TURN_ENDS;
    shuttle->pending = moved == TURN_ENDS;
    shuttle->stopped = moved == TURN_ENDS ? IDLE : moved;
}

/* ---------------------------------------------------------------- waiting */

/* Return `count` numbers up to before index `end` of a ring of `size`, a power of two, as a list; NO_SLOT is None. */
static PyObject *list_numbers(const int32_t *numbers, Int end, Int count, Int size)
{
    PyObject *list = PyList_New(0);
    for (Int at = end - count; list != NULL && at < end; at++) {
        const int32_t number = numbers[at & (size - 1)];
        PyObject *item = number == NO_SLOT ? Py_NewRef(Py_None) : PyLong_FromLong(number);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Run the shuttle of a descriptor, after so many events of it. Returns whether Python has to handle them, or what the
 * shuttle leaves. */
static int serve(Table *table, int fd, int events, PyThreadState **gil)
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
    if (shuttle->stopped < READER) /* else another event has stopped it in this wait */
        run_shuttle(shuttle, gil);
    table->pending += shuttle->pending;
    if (fd != shuttle->in.fd && shuttle->stopped < READER) /* else Python counts the notification */
        *(shuttle->sides == RECEIVES ? &shuttle->first_notes : &shuttle->second_notes) += events;
    return shuttle->stopped >= READER;
}

/* wait(epoll, stop, seconds, table) -> [descriptors], for Python to handle
 *
 * Wait for events of an epoll set, and run shuttles, until `stop` is readable, the time is over, or Python has to handle an
 * event, or what a shuttle leaves. The shuttles that Python has lent stay lent. */
static PyObject *wait_events(PyObject *Py_UNUSED(self), PyObject *args)
{
    int epoll, stop, stops = 0, count, rest = 0;
    int32_t others[2 * EVENTS_MAX];
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
            else if (serve(table, events[i].data.fd, 1, &gil))
                others[rest++] = events[i].data.fd;
        }
        for (int fd = 0; pending && fd < table->end && rest < 2 * EVENTS_MAX; fd++)
            if (table->by_fd[fd] != NULL && table->by_fd[fd]->pending && serve(table, fd, 0, &gil))
                others[rest++] = fd;
    } while (!stops && !rest && count >= 0 && now() < end);
    PyEval_RestoreThread(gil);
    return list_numbers(others, rest, rest, 2 * EVENTS_MAX);
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

/* Copy a list of numbers from `low` to below `end`; None is NO_SLOT. Returns their number, -1 if they are unusable. */
static Int copy_list(PyObject *list, Int low, Int end, int32_t *numbers)
{
    const Int count = PyList_Size(list);
    for (Int at = 0; at < count; at++) {
        PyObject *item = PyList_GetItem(list, (Py_ssize_t)at);
        const Int number = item == Py_None ? NO_SLOT : PyLong_AsLongLong(item);
        if (count > NUM_MAX || number < low || number >= end || PyErr_Occurred())
            return -1;
        numbers[at] = (int32_t)number;
    }
    return count;
}

/* lend(shuttle, ...): lend a shuttle the state of both flows, or of the one in this process; see `Shuttle` for the arguments */
static PyObject *lend(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *capsule, *tokens, *next, *free;
    Shuttle new = {0};
    if (!PyArg_ParseTuple(args, "OiiiiiOiOdOOOiw*w*w*w*w*w*LHHHHHw*Kw*KLLLO!O!O!dLLL", &capsule, &new.towards_device,
                          &new.sides, &new.doorbell, &new.in.fd, &new.out, &new.in.fronts.fronts, &new.in.fronts.size,
                          &new.in.fronts.verdicts, &new.in.size_max, &new.judge.known, &new.judge.heads, &new.judge.exceptions,
                          &new.judge.single, &new.driver.desc, &new.driver.avail, &new.driver.used, &new.device.desc,
                          &new.device.avail, &new.device.used, &new.num, &new.added, &new.last_used, &new.last_avail,
                          &new.avail_end, &new.used, &new.block, &new.block_base, &new.region, &new.region_base, &new.room,
                          &new.pitch, &new.head, &PyList_Type, &tokens, &PyList_Type, &next, &PyList_Type, &free, &new.usual,
                          &new.posted, &new.posted_bytes, &new.posted_min))
        return NULL;
    Shuttle *shuttle = PyCapsule_GetPointer(capsule, SHUTTLE);
    new.objects = Py_NewRef(args);
    const int driver = new.sides & (new.towards_device ? SENDS : RECEIVES), device = new.sides & ~driver & BOTH;
    int good = shuttle != NULL && shuttle->objects == NULL && driver + device > 0 && (!device || holds(&new.device, new.num));
    if (good && driver) {
        const Int end = new.room > 0 && new.pitch >= new.room ? (new.block.len + new.pitch - new.room) / new.pitch : 0;
        new.free_count = copy_list(free, 0, end, new.free);
        good = new.room > LARGEST && holds(&new.driver, new.num) && new.free_count >= 0 && new.head >= 0 && new.head < new.num
               && copy_list(tokens, NO_SLOT, end, new.slots) == new.num && copy_list(next, 0, new.num, new.next) == new.num;
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
    if (end_burst(l) && l->stopped == IDLE)
        l->stopped = WRITER;
    const Int moved = l->towards_device ? l->frames_out : l->in.frames, count = moved < l->num ? moved : l->num;
    const Int sent = l->towards_device && l->sides & SENDS ? l->num : 0; /* else the driver's descriptors stay as they are */
    give_up(l);
    return Py_BuildValue("(iLLLLLLLLHHHHHdNLNNN)", l->stopped, l->in.left, l->in.frames, l->in.bytes, l->frames_out,
                         l->bytes_out, l->first_notes, l->second_notes, l->returned, l->added, l->last_used, l->last_avail,
                         l->avail_end, l->used, l->usual, list_numbers(l->taken, l->last_avail, count, l->num), l->head,
                         list_numbers(l->slots, sent, sent, l->num), list_numbers(l->next, sent, sent, l->num),
                         list_numbers(l->free, l->free_count, l->free_count, 2 * NUM_MAX));
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
    PyModuleDef_HEAD_INIT, "_shuttles", "Plain frames between ports and a split ring.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__shuttles(void)
{
    return PyModuleDef_Init(&definition);
}
