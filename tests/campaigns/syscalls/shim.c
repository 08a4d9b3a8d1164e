/* Functions of the C library that make a system call, preloaded in front of it: each asks Python first whether it fails.
 *
 * Python's answer is 0, or the errno of a failure: the call is then not made. Only `close` is made even so, as Linux does.
 * All wrappers pass six machine words on, which is right for every function here with the calling conventions of x86-64 and
 * arm64. Not asked: the first thread before Python starts, threads that Python does not know, children before exec, memory
 * without a file (Python's allocator asks for it in a state in which no Python code may run), and calls that the C library
 * makes inside of itself.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

enum { SOL_SOCKET = 1, SO_TYPE = 3 }; /* its header declares the functions below with other types */

typedef long Word;
typedef Word (*Real)(Word, Word, Word, Word, Word, Word);
typedef int (*Decide)(const char *name, int fd, Word second);

extern int PyGILState_Ensure(void);
extern void PyGILState_Release(int);
extern void *PyGILState_GetThisThreadState(void);
extern void PyErr_Fetch(void **, void **, void **);
extern void PyErr_Restore(void *, void *, void *);

static Decide decide;
static Word owner;
static __thread int asking; /* the calls that Python makes to decide are let through */

static Real find(const char *name)
{
    return (Real)dlsym(RTLD_NEXT, name);
}

static Word pass(Real *real, const char *name, Word a, Word b, Word c, Word d, Word e, Word f)
{
    if (*real == NULL)
        *real = find(name);
    return (*real)(a, b, c, d, e, f);
}

static Word process(void)
{
    static Real real; /* not getpid: the child of vfork shares this memory, and is no process of ours */
    return pass(&real, "syscall", SYS_getpid, 0, 0, 0, 0, 0);
}

/* Ask `to` from now on in this process, or nothing. A child of fork calls it again, before which it is not asked. */
void shim_ask(Decide to)
{
    owner = process();
    decide = to;
}

static int fails(const char *name, int fd, Word second)
{
    void *type, *value, *traceback;
    if (decide == NULL || asking || process() != owner || PyGILState_GetThisThreadState() == NULL)
        return 0;
    const int before = errno;
    asking = 1;
    const int held = PyGILState_Ensure();
    PyErr_Fetch(&type, &value, &traceback); /* a destructor may run while an exception is raised */
    const int error = decide(name, fd, second);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(held);
    asking = 0;
    errno = before;
    return error;
}

#define WRAP(name, fd, second, failure)                                  \
    Word name(Word a, Word b, Word c, Word d, Word e, Word f)            \
    {                                                                    \
        static Real real;                                                \
        const int error = fails(#name, (int)(fd), second);               \
        if (error) {                                                     \
            errno = error;                                               \
            return failure;                                              \
        }                                                                \
        return pass(&real, #name, a, b, c, d, e, f);                     \
    }
#define OF_FD(name) WRAP(name, a, b, -1)
#define OF_PATH(name) WRAP(name, -1, 0, -1)
#define RETURNS_NULL(name) WRAP(name, -1, 0, 0)
#define RETURNS_ERROR(name) WRAP(name, -1, 0, error)

OF_FD(accept) OF_FD(accept4) OF_FD(bind) OF_FD(connect) OF_FD(listen) OF_FD(shutdown)
OF_FD(setsockopt)
OF_FD(read) OF_FD(readv) OF_FD(pread64) OF_FD(preadv64v2) OF_FD(recv) OF_FD(recvfrom) OF_FD(recvmsg)
OF_FD(writev) OF_FD(pwrite64) OF_FD(pwritev64v2) OF_FD(send) OF_FD(sendto) OF_FD(sendmsg)
OF_FD(dup) OF_FD(dup2) OF_FD(dup3) OF_FD(fcntl64) OF_FD(ioctl) OF_FD(flock)
OF_FD(fallocate64) OF_FD(fchmod) OF_FD(fdatasync) OF_FD(fsync) OF_FD(ftruncate64)
OF_FD(epoll_ctl) OF_FD(epoll_wait) OF_FD(setns)
OF_PATH(access) OF_PATH(chdir) OF_PATH(chmod) OF_PATH(lstat64) OF_PATH(mkdir) OF_PATH(mount) OF_PATH(open64)
OF_PATH(openat64) OF_PATH(readlink) OF_PATH(rename) OF_PATH(rmdir) OF_PATH(fstatat64) OF_PATH(stat64) OF_PATH(statvfs64)
OF_PATH(symlink) OF_PATH(umount2) OF_PATH(unlink) OF_PATH(unlinkat)
OF_PATH(epoll_create1) OF_PATH(eventfd) OF_PATH(memfd_create) OF_PATH(openpty) OF_PATH(pipe2) OF_PATH(socket)
OF_PATH(socketpair) OF_PATH(fork) OF_PATH(kill) OF_PATH(poll) OF_PATH(prctl) OF_PATH(select)
OF_PATH(setrlimit64) OF_PATH(unshare) OF_PATH(waitpid)
RETURNS_NULL(fdopendir) RETURNS_NULL(fopen64) RETURNS_NULL(opendir) RETURNS_NULL(readdir64)
RETURNS_ERROR(pthread_create)

Word close(Word fd)
{
    static Real real;
    const int error = fails("close", (int)fd, 0);
    const Word result = pass(&real, "close", fd, 0, 0, 0, 0, 0);
    if (!error)
        return result;
    errno = error;
    return -1;
}

Word mmap64(Word a, Word b, Word c, Word d, Word e, Word f)
{
    static Real real;
    const int error = (int)e < 0 ? 0 : fails("mmap64", (int)e, 0);
    if (!error)
        return pass(&real, "mmap64", a, b, c, d, e, f);
    errno = error;
    return -1;
}

/* Python writes to a socket only in its signal handler, to wake itself: no Python code may run there. */
Word write(Word fd, Word data, Word size)
{
    static Real real, look;
    int type, length = sizeof type;
    const int before = errno, other = pass(&look, "getsockopt", fd, SOL_SOCKET, SO_TYPE, (Word)&type, (Word)&length, 0) < 0;
    errno = before;
    const int error = other ? fails("write", (int)fd, 0) : 0;
    if (!error)
        return pass(&real, "write", fd, data, size, 0, 0, 0);
    errno = error;
    return -1;
}

/* The number, and six words: one more than all others have. */
Word syscall(Word number, Word a, Word b, Word c, Word d, Word e, Word f)
{
    static Word (*real)(Word, Word, Word, Word, Word, Word, Word);
    const int error = fails("syscall", -1, number);
    if (error) {
        errno = error;
        return -1;
    }
    if (real == NULL)
        real = (Word(*)(Word, Word, Word, Word, Word, Word, Word))(void *)find("syscall");
    return real(number, a, b, c, d, e, f);
}
