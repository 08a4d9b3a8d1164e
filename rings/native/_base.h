/* What all C files share: Python's limited API, numbers, and the words of a ring in shared memory.
 *
 * Words are loaded and stored by relaxed atomic accesses, which fences order.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

typedef long long Int; /* any number that Python hands over: all are below 2^63 */

/* VIRTIO 1.4, 2.7.5 and 2.7.6: flags of a descriptor, and 16-bit words of an available or used ring */
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, IDX = 1, AVAIL_RING = 2 };

static inline int take_ints(PyObject *const *args, int count, Int *values)
{
    for (int i = 0; i < count; i++) {
        values[i] = PyLong_AsLongLong(args[i]);
        if (values[i] == -1 && PyErr_Occurred())
            return 0;
    }
    return 1;
}

static inline int has_count(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments wanted, %zd given", wanted, given);
    return given == wanted;
}

static inline uint64_t load64(const Py_buffer *view, Int at)
{
    return atomic_load_explicit((_Atomic uint64_t *)view->buf + at, memory_order_relaxed);
}

static inline void store64(const Py_buffer *view, Int at, uint64_t word)
{
    atomic_store_explicit((_Atomic uint64_t *)view->buf + at, word, memory_order_relaxed);
}

static inline uint32_t load32(const Py_buffer *view, Int at)
{
    return atomic_load_explicit((_Atomic uint32_t *)view->buf + at, memory_order_relaxed);
}

static inline void store32(const Py_buffer *view, Int at, uint32_t word)
{
    atomic_store_explicit((_Atomic uint32_t *)view->buf + at, word, memory_order_relaxed);
}

static inline uint16_t load16(const Py_buffer *view, Int at)
{
    return atomic_load_explicit((_Atomic uint16_t *)view->buf + at, memory_order_relaxed);
}

static inline void store16(const Py_buffer *view, Int at, uint16_t word)
{
    atomic_store_explicit((_Atomic uint16_t *)view->buf + at, word, memory_order_relaxed);
}
