/* The yardstick in C: `vnet.bench.forwarder`, the same loop without an interpreter. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BUFFER_SIZE = 12 + 65536, BATCH = 64, STOP = 2, ENDS = 3 };

/* Move up to a batch of packets. Returns 0 if an interface is gone; errno has the cause. */
static int forward_batch(int from, int to)
{
    static char buffer[BUFFER_SIZE];
    for (int i = 0; i < BATCH; i++) {
        const ssize_t size = read(from, buffer, sizeof buffer);
        if (size < 0 || write(to, buffer, (size_t)size) < 0) /* nothing to read, or a packet that is dropped */
            return errno == EAGAIN || errno == EINVAL || errno == EIO || errno == ENOBUFS || errno == ENOMEM;
    }
    return 1;
}

/* Forward until `fds[STOP]` is readable or closed. Returns 0, or the cause of a failure. */
static int serve(int epoll, const int fds[ENDS])
{
    for (int end = 0; end < ENDS; end++)
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[end], &(struct epoll_event){EPOLLIN, {.u32 = (uint32_t)end}}) < 0)
            return errno;
    for (;;) {
        struct epoll_event events[ENDS];
        const int count = epoll_wait(epoll, events, ENDS, -1);
        if (count < 0 && errno != EINTR)
            return errno;
        for (int i = 0; i < count; i++) {
            const int end = (int)events[i].data.u32;
            if (end == STOP)
                return 0;
            if (!forward_batch(fds[end], fds[1 - end]))
                return errno;
        }
    }
}

/* forward(first, second, stop): as the function of this name in Python. Raises OSError. */
static PyObject *forward(PyObject *Py_UNUSED(self), PyObject *args)
{
    int fds[ENDS], error;
    if (!PyArg_ParseTuple(args, "iii", &fds[0], &fds[1], &fds[STOP]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    error = epoll < 0 ? errno : serve(epoll, fds);
    close(epoll);
    Py_END_ALLOW_THREADS
    errno = error;
    return error ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {{"forward", forward, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_forwarder", "The yardstick in C.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__forwarder(void)
{
    return PyModuleDef_Init(&definition);
}
