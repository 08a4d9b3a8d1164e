/* The plain path of the rings: chains of one descriptor, and those in an indirect table, by the batch.
 *
 * Each function is the loop of one Python method of rings/split or rings/packed, over the same objects: the pinned
 * views of the ring, and the lists with the state of chains in flight. A function stops before the first chain that is
 * not plain, and leaves it as it found it: Python judges that chain, words the error, and may go on with any other.
 *
 * The other side may change the ring at any time. Each of its words is loaded once, by one atomic load, and the checks
 * use that copy. The caller loads and stores the indices of a split ring and executes the full fences; a function that
 * loads what an index covers begins with an acquire fence, and one whose stores an index is going to cover ends with a
 * release fence.
 */

#include "_base.h"

#include <stdlib.h>

/* VIRTIO 1.4, 2.8.1 */
enum { AVAIL = 1 << 7, USED = 1 << 15, HANDS = AVAIL | USED };
enum { DESC = 16 };      /* bytes of a descriptor */
#define SEGMENT_MAX 0xFFFFFFFFLL
#define CHAIN_MAX 0x100000000ULL
#define NO_WORD UINT64_MAX /* no descriptor has all flags */

/* Borrow a pinned view of `count` words of `unit` bytes. Raises ValueError if it is released, short or not aligned.
 *
 * Elements of a used ring are two words of 32 bits each, because the ring is aligned to 4 bytes only. */
static int borrow(PyObject *view, Py_buffer *buffer, Int count, int unit)
{
    if (PyObject_GetBuffer(view, buffer, PyBUF_WRITABLE) < 0)
        return 0;
    if (count >= 0 && buffer->len / unit >= count && (uintptr_t)buffer->buf % unit == 0)
        return 1;
    PyBuffer_Release(buffer);
    PyErr_SetString(PyExc_ValueError, "the view of a ring is too short, or not aligned");
    return 0;
}

/* Borrow the descriptors and the available ring of a split ring of `num` descriptors. */
static int borrow_both(PyObject *const *views, Int num, Py_buffer *desc, Py_buffer *avail)
{
    if (!borrow(views[0], desc, 2 * num, 8))
        return 0;
    if (borrow(views[1], avail, AVAIL_RING + num, 2))
        return 1;
    PyBuffer_Release(desc);
    return 0;
}

/* ---------------------------------------------------------------- lists */

/* Return list[at] as a number. Sets *failed, and raises, if that is impossible. */
static Int get_int(PyObject *list, Int at, int *failed)
{
    PyObject *item = PyList_GetItem(list, (Py_ssize_t)at);
    Int value = item == NULL ? -1 : PyLong_AsLongLong(item);
    if (value == -1 && PyErr_Occurred())
        *failed = 1;
    return value;
}

static int set_item(PyObject *list, Int at, PyObject *value)
{
    Py_INCREF(value);
    return PyList_SetItem(list, (Py_ssize_t)at, value) == 0; /* it takes our reference in any case */
}

static int set_int(PyObject *list, Int at, Int value)
{
    PyObject *item = PyLong_FromLongLong(value);
    return item != NULL && PyList_SetItem(list, (Py_ssize_t)at, item) == 0;
}

/* Append the tuple (a, b) or (a, b, c) to a list, and let go of the references to its parts. */
static int append_tuple(PyObject *list, PyObject *a, PyObject *b, PyObject *c, int parts)
{
    PyObject *tuple = NULL;
    if (a != NULL && b != NULL && (parts < 3 || c != NULL))
        tuple = parts < 3 ? PyTuple_Pack(2, a, b) : PyTuple_Pack(3, a, b, c);
    Py_XDECREF(a);
    Py_XDECREF(b);
    Py_XDECREF(c);
    int done = tuple != NULL && PyList_Append(list, tuple) == 0;
    Py_XDECREF(tuple);
    return done;
}

/* ---------------------------------------------------------------- both formats */

/* A range of the driver's memory that the device's side may access: bus address and bytes. */
typedef struct {
    uint64_t base, size;
} Region;

static int take_region(PyObject *const *args, Region *region)
{
    region->base = PyLong_AsUnsignedLongLong(args[0]);
    if (region->base == (uint64_t)-1 && PyErr_Occurred())
        return 0;
    region->size = PyLong_AsUnsignedLongLong(args[1]);
    return !(region->size == (uint64_t)-1 && PyErr_Occurred());
}

static int in_region(const Region *region, uint64_t addr, uint64_t size)
{
    return addr >= region->base && addr - region->base <= region->size && size <= region->size - (addr - region->base);
}

/* Memory of indirect tables and buffers: a region, the view of all of it, its bytes, and whether they may be written.
 *
 * A table has at most `longest` entries. Its flags are at bit 48 of their word if `packed`, else at 32. */
typedef struct {
    Region region;
    PyObject *view;
    Py_buffer bytes;
    Int may_write, longest;
    int packed;
} Tables;

/* Take base, view, may_write and longest. Release `bytes` afterwards. */
static int take_tables(PyObject *const *args, int packed, Tables *tables)
{
    Int v[2];
    tables->view = args[1];
    tables->packed = packed;
    tables->region.base = PyLong_AsUnsignedLongLong(args[0]);
    if (PyErr_Occurred() || !take_ints(args + 2, 2, v) || PyObject_GetBuffer(args[1], &tables->bytes, PyBUF_SIMPLE) < 0)
        return 0;
    tables->region.size = (uint64_t)tables->bytes.len;
    tables->may_write = v[0];
    tables->longest = v[1];
    return 1;
}

/* Append a view of a descriptor's buffer to a list. Returns 0 if Python has to judge it, -1 with an exception. */
static int append_view(PyObject *list, const Tables *tables, uint64_t addr, uint64_t size)
{
    if (size == 0)
        return 1;
    if (!in_region(&tables->region, addr, size))
        return 0;
    const Py_ssize_t at = (Py_ssize_t)(addr - tables->region.base);
    PyObject *part = PySequence_GetSlice(tables->view, at, at + (Py_ssize_t)size);
    const int done = part != NULL && PyList_Append(list, part) == 0;
    Py_XDECREF(part);
    return done ? 1 : -1;
}

/* Append the chain (ident, [readable views], [writable views]) of the indirect table at `addr`, whose entries are in
 * order. Returns the number of its descriptors; 0 if Python has to judge it, -1 with an exception. */
static Int append_table(PyObject *chains, const Tables *tables, Int ident, uint64_t addr, uint64_t size)
{
    const char *table = (const char *)tables->bytes.buf + (addr - tables->region.base);
    const Int entries = (Int)(size / DESC);
    if (size % DESC || !entries || entries > tables->longest || !in_region(&tables->region, addr, size)
        || (uintptr_t)table % 8)
        return 0;
    PyObject *parts[] = {PyList_New(0), PyList_New(0)};
    int plain = parts[0] != NULL && parts[1] != NULL ? 1 : -1, wrote = 0;
    uint64_t total = 0;
    Int count = 0;
    for (int last = 0; plain == 1 && !last; count++) {
        const _Atomic uint64_t *entry = (const _Atomic uint64_t *)(const void *)(table + DESC * count);
        const uint64_t start = atomic_load_explicit(entry, memory_order_relaxed);
        const uint64_t word = atomic_load_explicit(entry + 1, memory_order_relaxed);
        const uint64_t flags = word >> (tables->packed ? 48 : 32), length = word & SEGMENT_MAX;
        last = tables->packed ? count + 1 == entries : !(flags & NEXT);
        plain = (total += length) <= CHAIN_MAX && !(wrote && !(flags & WRITE));
        if (!tables->packed) /* those of a packed ring have no flag but WRITE */
            plain = plain && !(flags & INDIRECT) && (last || (count + 1 < entries && word >> 48 == (uint64_t)count + 1));
        wrote = (flags & WRITE) != 0;
        if (plain && (tables->may_write || !wrote))
            plain = append_view(parts[wrote], tables, start, length);
        else
            plain = 0;
    }
    if (plain == 1 && !append_tuple(chains, PyLong_FromLongLong(ident), Py_NewRef(parts[0]), Py_NewRef(parts[1]), 3))
        plain = -1;
    Py_XDECREF(parts[0]);
    Py_XDECREF(parts[1]);
    return plain == 1 ? count : plain;
}

/* The chains that a device completes. `done` has tuples that start with the head; `written` is their second item,
 * or 0 for all if `unwritten`. */
typedef struct {
    PyObject *done, *states, *batch, *in_flight;
    Int count;
    int unwritten;
} Completion;

static int completed(const Completion *c, Int at, Int *head, Int *written)
{
    PyObject *item = PySequence_GetItem(c->done, (Py_ssize_t)at);
    PyObject *first = item == NULL ? NULL : PyTuple_GetItem(item, 0);
    PyObject *second = first == NULL || c->unwritten ? NULL : PyTuple_GetItem(item, 1);
    *head = first == NULL ? -1 : PyLong_AsLongLong(first);
    *written = second == NULL ? 0 : PyLong_AsLongLong(second);
    Py_XDECREF(item);
    return !PyErr_Occurred();
}

/* Mark the states of all heads as completed by `batch`. If one of them is not in flight, restore the former ones and
 * return 0: Python raises the error. Returns -1 with an exception if `done` is malformed. */
static int mark_completed(const Completion *c, Int num)
{
    Int in_flight = PyLong_AsLongLong(c->in_flight), head, written;
    for (Int at = 0; at < c->count; at++) {
        int failed = 0;
        if (!completed(c, at, &head, &written))
            return -1;
        if (head < 0 || head >= num || written < 0 || written > SEGMENT_MAX
            || get_int(c->states, head, &failed) != in_flight || failed) {
            while (at-- > 0)
                if (!completed(c, at, &head, &written) || !set_item(c->states, head, c->in_flight))
                    return -1;
            return failed ? -1 : 0;
        }
        if (!set_item(c->states, head, c->batch))
            return -1;
    }
    return 1;
}

/* A buffer that a driver adds, as the tuple (address, bytes, token). */
typedef struct {
    uint64_t addr;
    Int size;
    PyObject *token; /* borrowed from the tuple, which the caller's list keeps */
} Buffer;

/* Take buffers[at]. Returns 0 if Python has to judge it. */
static int take_buffer(PyObject *buffers, Int at, Buffer *buffer)
{
    PyObject *item = PyList_GetItem(buffers, (Py_ssize_t)at);
    PyObject *addr = item == NULL ? NULL : PyTuple_GetItem(item, 0);
    PyObject *size = addr == NULL ? NULL : PyTuple_GetItem(item, 1);
    buffer->token = size == NULL ? NULL : PyTuple_GetItem(item, 2);
    if (buffer->token != NULL) {
        buffer->addr = PyLong_AsUnsignedLongLong(addr);
        buffer->size = PyLong_AsLongLong(size);
    }
    if (!PyErr_Occurred())
        return buffer->size >= 0 && buffer->size <= SEGMENT_MAX;
    PyErr_Clear();
    return 0;
}

/* Return whether all buffers can be added; nothing is written before that is certain. */
static int are_plain(PyObject *buffers, Py_ssize_t count)
{
    Buffer buffer;
    for (Py_ssize_t at = 0; at < count; at++)
        if (!take_buffer(buffers, at, &buffer))
            return 0;
    return 1;
}

/* Note a chain of one descriptor in the lists of the driver's side. */
static int note_added(PyObject *room, PyObject *counts, PyObject *tokens, Int ident, const Buffer *buffer, int writable)
{
    return set_int(room, ident, writable ? buffer->size : 0) && set_int(counts, ident, 1)
           && set_item(tokens, ident, buffer->token);
}

/* Take a used chain of one descriptor back: append (token, written) to `done`. Returns 0 if Python has to judge it,
 * -1 with an exception. */
static int take_back(PyObject *done, PyObject *room, PyObject *counts, PyObject *tokens, Int ident, Int written)
{
    int failed = 0;
    PyObject *token = PyList_GetItem(tokens, (Py_ssize_t)ident);
    if (token == NULL)
        return -1;
    if (token == Py_None || written > get_int(room, ident, &failed) || get_int(counts, ident, &failed) != 1)
        return failed ? -1 : 0;
    Py_INCREF(token);
    if (!append_tuple(done, token, PyLong_FromLongLong(written), NULL, 2) || !set_item(tokens, ident, Py_None))
        return -1;
    return 1;
}

/* ---------------------------------------------------------------- split, device's side */

/* split_take(desc, avail, states, in_flight, base, size, num, first, count, batch, writable) -> [(head, offset, bytes)]
 *
 * `SplitVringh.getdescs` for `count` entries of the available ring from index `first` on. Offsets are in the region. */
static PyObject *split_take(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[5];
    Region region;
    Py_buffer desc, avail;
    if (!has_count(given, 11) || !take_region(args + 4, &region) || !take_ints(args + 6, 5, v))
        return NULL;
    const Int num = v[0], first = v[1], count = v[2], batch = v[3];
    const uint64_t kind = v[4] ? WRITE : 0;
    PyObject *states = args[2];
    if (!borrow_both(args, num, &desc, &avail))
        return NULL;
    PyObject *chains = PyList_New(0);
    atomic_thread_fence(memory_order_acquire); /* after the caller's load of the available index */
    for (Int entry = first; chains != NULL && entry < first + count; entry++) {
        int failed = 0;
        const Int head = load16(&avail, AVAIL_RING + (entry & (num - 1)));
        if (head >= num || get_int(states, head, &failed) >= batch)
            break;
        const uint64_t addr = load64(&desc, 2 * head), word = load64(&desc, 2 * head + 1);
        const uint64_t size = word & SEGMENT_MAX, flags = word >> 32 & (NEXT | INDIRECT | WRITE);
        if (flags != kind || size == 0 || !in_region(&region, addr, size))
            break;
        if (failed || !set_item(states, head, args[3])
            || !append_tuple(chains, PyLong_FromLongLong(head), PyLong_FromUnsignedLongLong(addr - region.base),
                             PyLong_FromUnsignedLongLong(size), 3))
            Py_CLEAR(chains);
    }
    PyBuffer_Release(&avail);
    PyBuffer_Release(&desc);
    if (chains != NULL && PyErr_Occurred())
        Py_CLEAR(chains);
    return chains;
}

/* split_tables(desc, avail, states, in_flight, base, view, may_write, longest, num, first, count, batch, budget)
 *     -> ([(head, [readable views], [writable views])], budget left)
 *
 * `SplitVringh.getdescs` as `split_take`, for chains in indirect tables. */
static PyObject *split_tables(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[5];
    Tables tables;
    Py_buffer desc, avail;
    if (!has_count(given, 13) || !take_ints(args + 8, 5, v) || !take_tables(args + 4, 0, &tables))
        return NULL;
    const Int num = v[0], first = v[1], count = v[2], batch = v[3];
    Int budget = v[4];
    PyObject *states = args[2], *chains = NULL;
    if (!borrow_both(args, num, &desc, &avail))
        goto without_ring;
    chains = PyList_New(0);
    atomic_thread_fence(memory_order_acquire); /* after the caller's load of the available index */
    for (Int entry = first; chains != NULL && entry < first + count && budget > 0; entry++) {
        int failed = 0;
        const Int head = load16(&avail, AVAIL_RING + (entry & (num - 1)));
        if (head >= num || get_int(states, head, &failed) >= batch)
            break;
        const uint64_t addr = load64(&desc, 2 * head), word = load64(&desc, 2 * head + 1);
        if ((word >> 32 & (NEXT | INDIRECT)) != INDIRECT)
            break;
        const Int descs = failed ? -1 : append_table(chains, &tables, head, addr, word & SEGMENT_MAX);
        if (descs == 0)
            break;
        if (descs < 0 || !set_item(states, head, args[3]))
            Py_CLEAR(chains);
        budget -= descs;
    }
    PyBuffer_Release(&avail);
    PyBuffer_Release(&desc);
without_ring:
    PyBuffer_Release(&tables.bytes);
    if (chains != NULL && PyErr_Occurred())
        Py_CLEAR(chains);
    return chains == NULL ? NULL : Py_BuildValue("(NL)", chains, budget);
}

/* split_complete(elems, states, in_flight, batch, done, num, used, count, unwritten) -> whether Python need not
 *
 * `SplitVringh.complete_each` for the first `count` of `done`, into the used ring from index `used` on. */
static PyObject *split_complete(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[4], head, written;
    Py_buffer elems;
    if (!has_count(given, 9) || !take_ints(args + 5, 4, v) || !borrow(args[0], &elems, 2 * v[0], 4))
        return NULL;
    const Completion c = {args[4], args[1], args[3], args[2], v[2], v[3] != 0};
    const Int num = v[0], used = v[1];
    const int marked = mark_completed(&c, num);
    for (Int at = 0; marked == 1 && at < c.count; at++)
        if (completed(&c, at, &head, &written)) {
            store32(&elems, 2 * ((used + at) & (num - 1)), (uint32_t)head);
            store32(&elems, 2 * ((used + at) & (num - 1)) + 1, (uint32_t)written);
        }
    atomic_thread_fence(memory_order_release); /* before the caller's store of the used index */
    PyBuffer_Release(&elems);
    return marked < 0 || PyErr_Occurred() ? NULL : PyBool_FromLong(marked);
}

/* ---------------------------------------------------------------- split, driver's side */

/* split_add(desc, avail, buffers, room, counts, tokens, following, num, head, added, writable) -> next free descriptor
 *
 * `SplitVirtqueue.add_each`; the caller has checked that there is room. None: nothing was added, Python has to. */
static PyObject *split_add(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[4];
    Py_buffer desc, avail;
    if (!has_count(given, 11) || !take_ints(args + 7, 4, v))
        return NULL;
    PyObject *buffers = args[2];
    const Int num = v[0], added = v[2];
    const uint64_t flags = v[3] ? (uint64_t)WRITE << 32 : 0;
    const Py_ssize_t count = PyList_Size(buffers);
    if (count < 0)
        return NULL;
    if (!are_plain(buffers, count))
        Py_RETURN_NONE;
    if (!borrow_both(args, num, &desc, &avail))
        return NULL;
    Int head = v[1];
    int failed = 0;
    for (Py_ssize_t at = 0; at < count && !failed; at++) {
        Buffer buffer;
        if (head < 0 || head >= num || !take_buffer(buffers, at, &buffer)
            || !note_added(args[3], args[4], args[5], head, &buffer, flags != 0)) {
            failed = 1;
            break;
        }
        store64(&desc, 2 * head, buffer.addr);
        store64(&desc, 2 * head + 1, (uint64_t)buffer.size | flags);
        store16(&avail, AVAIL_RING + ((added + at) & (num - 1)), (uint16_t)head);
        head = get_int(args[6], head, &failed);
    }
    atomic_thread_fence(memory_order_release); /* before the caller's store of the available index */
    PyBuffer_Release(&avail);
    PyBuffer_Release(&desc);
    if (failed && !PyErr_Occurred())
        PyErr_SetString(PyExc_SystemError, "the list of free descriptors is broken");
    return failed ? NULL : PyLong_FromLongLong(head);
}

/* split_get(elems, room, counts, tokens, following, num, first, count, free) -> ([(token, bytes)], free)
 *
 * `SplitVirtqueue.get_each` for up to `count` used elements from index `first` on; `free` is the first free
 * descriptor. */
static PyObject *split_get(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[4];
    Py_buffer elems;
    if (!has_count(given, 9) || !take_ints(args + 5, 4, v) || !borrow(args[0], &elems, 2 * v[0], 4))
        return NULL;
    const Int num = v[0], first = v[1], count = v[2];
    Int free = v[3];
    PyObject *done = PyList_New(0);
    int taken = done == NULL ? -1 : 1;
    atomic_thread_fence(memory_order_acquire); /* after the caller's load of the used index */
    for (Int at = first; taken == 1 && at < first + count; at++) {
        const Int head = load32(&elems, 2 * (at & (num - 1))), written = load32(&elems, 2 * (at & (num - 1)) + 1);
        taken = head >= num ? 0 : take_back(done, args[1], args[2], args[3], head, written);
        if (taken == 1) {
            taken = set_int(args[4], head, free) ? 1 : -1;
            free = head;
        }
    }
    PyBuffer_Release(&elems);
    PyObject *result = NULL;
    if (taken >= 0)
        result = Py_BuildValue("(OL)", done, free);
    Py_XDECREF(done);
    return result;
}

/* ---------------------------------------------------------------- packed, device's side */

static uint64_t available(Int lap)
{
    return lap ? AVAIL : USED;
}

static uint64_t used(Int lap)
{
    return lap ? HANDS : 0;
}

/* The word of the first descriptor of a batch, which its caller stores last, for Python: -1 if it is `NO_WORD`. */
static PyObject *kept_word(uint64_t word)
{
    return word == NO_WORD ? PyLong_FromLong(-1) : PyLong_FromUnsignedLongLong(word);
}

static void step(Int *slot, Int *lap, Int num)
{
    if (++*slot == num) {
        *slot = 0;
        *lap ^= 1;
    }
}

/* packed_take(desc, states, counts, in_flight, base, size, num, slot, lap, limit, batch, writable)
 *     -> [(buffer id, offset, bytes)]
 *
 * `PackedVringh.getdescs` for up to `limit` descriptors from `slot` on, not more than the device does not have. */
static PyObject *packed_take(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[6];
    Region region;
    Py_buffer desc;
    if (!has_count(given, 12) || !take_region(args + 4, &region) || !take_ints(args + 6, 6, v))
        return NULL;
    const Int num = v[0], limit = v[3], batch = v[4];
    const uint64_t kind = v[5] ? WRITE : 0;
    Int slot = v[1], lap = v[2];
    if (!borrow(args[0], &desc, 2 * num, 8))
        return NULL;
    PyObject *states = args[1], *chains = PyList_New(0);
    for (Int at = 0; chains != NULL && at < limit && slot < num; at++) {
        int failed = 0;
        const uint64_t word = load64(&desc, 2 * slot + 1);
        const uint64_t size = word & SEGMENT_MAX, flags = word >> 48 & (HANDS | NEXT | INDIRECT | WRITE);
        const Int ident = word >> 32 & 0xFFFF;
        if (flags != (available(lap) | kind) || size == 0)
            break;
        atomic_thread_fence(memory_order_acquire); /* the address is valid once the flags say so */
        const uint64_t addr = load64(&desc, 2 * slot);
        if (!in_region(&region, addr, size) || ident >= num || get_int(states, ident, &failed) >= batch)
            break;
        if (failed || !set_item(states, ident, args[3]) || !set_int(args[2], ident, 1)
            || !append_tuple(chains, PyLong_FromLongLong(ident), PyLong_FromUnsignedLongLong(addr - region.base),
                             PyLong_FromUnsignedLongLong(size), 3))
            Py_CLEAR(chains);
        step(&slot, &lap, num);
    }
    PyBuffer_Release(&desc);
    if (chains != NULL && PyErr_Occurred())
        Py_CLEAR(chains);
    return chains;
}

/* packed_tables(desc, states, counts, in_flight, base, view, may_write, longest, num, slot, lap, limit, batch, budget)
 *     -> ([(buffer id, [readable views], [writable views])], budget left)
 *
 * `PackedVringh.getdescs` as `packed_take`, for chains in indirect tables. */
static PyObject *packed_tables(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[6];
    Tables tables;
    Py_buffer desc;
    if (!has_count(given, 14) || !take_ints(args + 8, 6, v) || !take_tables(args + 4, 1, &tables))
        return NULL;
    const Int num = v[0], limit = v[3], batch = v[4];
    Int slot = v[1], lap = v[2], budget = v[5];
    PyObject *states = args[1], *chains = NULL;
    if (!borrow(args[0], &desc, 2 * num, 8))
        goto without_desc;
    chains = PyList_New(0);
    for (Int at = 0; chains != NULL && at < limit && slot < num && budget > 0; at++) {
        int failed = 0;
        const uint64_t word = load64(&desc, 2 * slot + 1);
        const Int ident = word >> 32 & 0xFFFF;
        if ((word >> 48 & (HANDS | NEXT | INDIRECT)) != (available(lap) | INDIRECT))
            break;
        atomic_thread_fence(memory_order_acquire); /* the address is valid once the flags say so */
        const uint64_t addr = load64(&desc, 2 * slot);
        if (ident >= num || get_int(states, ident, &failed) >= batch)
            break;
        const Int descs = failed ? -1 : append_table(chains, &tables, ident, addr, word & SEGMENT_MAX);
        if (descs == 0)
            break;
        if (descs < 0 || !set_item(states, ident, args[3]) || !set_int(args[2], ident, 1))
            Py_CLEAR(chains);
        budget -= descs;
        step(&slot, &lap, num);
    }
    PyBuffer_Release(&desc);
without_desc:
    PyBuffer_Release(&tables.bytes);
    if (chains != NULL && PyErr_Occurred())
        Py_CLEAR(chains);
    return chains == NULL ? NULL : Py_BuildValue("(NL)", chains, budget);
}

/* packed_complete(desc, states, counts, in_flight, batch, done, num, slot, lap, first_slot, count, unwritten)
 *     -> (slot, lap, descriptors, word of the first one or -1), or None if Python has to
 *
 * `PackedVringh.complete_each`. The first descriptor of a batch is kept back: it is at `first_slot`, or at `slot` if
 * that is -1, and then its word is returned. */
static PyObject *packed_complete(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[6], ident, written, descs = 0;
    Py_buffer desc;
    if (!has_count(given, 12) || !take_ints(args + 6, 6, v) || !borrow(args[0], &desc, 2 * v[0], 8))
        return NULL;
    const Completion c = {args[5], args[1], args[4], args[3], v[4], v[5] != 0};
    const Int num = v[0];
    Int slot = v[1], lap = v[2];
    const Int first_slot = v[3] < 0 ? slot : v[3];
    uint64_t first_word = NO_WORD;
    const int marked = mark_completed(&c, num);
    int failed = marked < 0;
    for (Int at = 0; marked == 1 && !failed && at < c.count; at++) {
        failed = !completed(&c, at, &ident, &written) || slot >= num;
        if (failed)
            break;
        const uint64_t word = (uint64_t)written | (uint64_t)ident << 32 | (used(lap) | (written ? WRITE : 0)) << 48;
        if (slot == first_slot)
            first_word = word;
        else
            store64(&desc, 2 * slot + 1, word);
        const Int count = get_int(args[2], ident, &failed);
        descs += count;
        slot += count;
        if (slot >= num) {
            slot -= num;
            lap ^= 1;
        }
    }
    atomic_thread_fence(memory_order_release); /* before the caller's store of the first descriptor */
    PyBuffer_Release(&desc);
    PyObject *result = NULL;
    if (!failed && marked == 0)
        result = Py_NewRef(Py_None);
    else if (!failed)
        result = Py_BuildValue("(LLLN)", slot, lap, descs, kept_word(first_word));
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_SystemError, "the position of used descriptors is broken");
    return result;
}

/* ---------------------------------------------------------------- packed, driver's side */

/* packed_add(desc, buffers, room, counts, tokens, ids, num, slot, lap, first_slot, writable)
 *     -> (slot, lap, word of the first one or -1), or None if Python has to
 *
 * `PackedVirtqueue.add_each`; the caller has checked that there is room, and removes the ids from the end of `ids`.
 * The first descriptor of a batch is kept back as in `packed_complete`. */
static PyObject *packed_add(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[5];
    Py_buffer desc;
    if (!has_count(given, 11) || !take_ints(args + 6, 5, v))
        return NULL;
    PyObject *buffers = args[1], *ids = args[5];
    uint64_t first_word = NO_WORD;
    const Int num = v[0], writable = v[4];
    Int slot = v[1], lap = v[2];
    const Int first_slot = v[3] < 0 ? slot : v[3];
    const Py_ssize_t count = PyList_Size(buffers), free = PyList_Size(ids);
    if (count < 0 || free < 0)
        return NULL;
    if (count > free || !are_plain(buffers, count))
        Py_RETURN_NONE;
    if (!borrow(args[0], &desc, 2 * num, 8))
        return NULL;
    int failed = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        Buffer buffer;
        const Int ident = get_int(ids, free - 1 - at, &failed);
        failed = failed || slot >= num || !take_buffer(buffers, at, &buffer)
                 || !note_added(args[2], args[3], args[4], ident, &buffer, writable != 0);
        if (failed)
            break;
        const uint64_t word = (uint64_t)buffer.size | (uint64_t)ident << 32 | (available(lap) | (writable ? WRITE : 0)) << 48;
        store64(&desc, 2 * slot, buffer.addr);
        if (slot != first_slot) {
            /* A device that looks ahead must not see the flags before the address. */
            atomic_thread_fence(memory_order_release);
            store64(&desc, 2 * slot + 1, word);
        } else {
            first_word = word;
        }
        step(&slot, &lap, num);
    }
    atomic_thread_fence(memory_order_release); /* before the caller's store of the first descriptor */
    PyBuffer_Release(&desc);
    PyObject *result = NULL;
    if (!failed)
        result = Py_BuildValue("(LLN)", slot, lap, kept_word(first_word));
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_SystemError, "the list of free buffer ids is broken");
    return result;
}

/* packed_get(desc, room, counts, tokens, ids, num, slot, lap, in_flight, limit) -> ([(token, bytes)], slot, lap, rest)
 *
 * `PackedVirtqueue.get_each`. `rest`: it stopped before a used descriptor that Python has to judge. */
static PyObject *packed_get(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t given)
{
    Int v[5];
    Py_buffer desc;
    if (!has_count(given, 10) || !take_ints(args + 5, 5, v) || !borrow(args[0], &desc, 2 * v[0], 8))
        return NULL;
    const Int num = v[0], in_flight = v[3], limit = v[4];
    Int slot = v[1], lap = v[2];
    PyObject *done = PyList_New(0);
    int taken = done == NULL ? -1 : 1;
    for (Int at = 0; taken == 1 && at < limit && slot < num; at++) {
        const uint64_t word = load64(&desc, 2 * slot + 1);
        const Int ident = word >> 32 & 0xFFFF, written = word & SEGMENT_MAX;
        if ((word >> 48 & HANDS) != used(lap))
            break;
        taken = at >= in_flight || ident >= num ? 0 : take_back(done, args[1], args[2], args[3], ident, written);
        if (taken != 1)
            break;
        PyObject *item = PyLong_FromLongLong(ident);
        taken = item != NULL && PyList_Append(args[4], item) == 0 ? 1 : -1;
        Py_XDECREF(item);
        step(&slot, &lap, num);
    }
    atomic_thread_fence(memory_order_acquire); /* before the user's loads of what the device wrote */
    PyBuffer_Release(&desc);
    PyObject *result = NULL;
    if (taken >= 0)
        result = Py_BuildValue("(OLLO)", done, slot, lap, taken ? Py_False : Py_True);
    Py_XDECREF(done);
    return result;
}

/* ---------------------------------------------------------------- module */

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    METHOD(split_take),  METHOD(split_tables),  METHOD(split_complete),  METHOD(split_add),  METHOD(split_get),
    METHOD(packed_take), METHOD(packed_tables), METHOD(packed_complete), METHOD(packed_add), METHOD(packed_get),
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *Py_UNUSED(module))
{
    const char *pure = getenv("VNET_PURE");
    if (pure == NULL || *pure == '\0' || strcmp(pure, "0") == 0)
        return 0;
    PyErr_SetString(PyExc_ImportError, "switched off by VNET_PURE");
    return -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_rings", "Chains of one descriptor or in an indirect table, by the batch.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__rings(void)
{
    return PyModuleDef_Init(&definition);
}
