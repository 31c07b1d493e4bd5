/* Effects of the agent that fail, at the functions of libc that make the system calls.
 *
 * Preloaded into an agent (lab/faults.py), it sees every effect before the kernel does: it writes
 * them down, or lets one of them fail with an error of the kernel, or write only half of the bytes.
 * It works in processes of Python whose command line has the word of AMPHORA_FAULTS_WORD, and in what
 * they fork; in every other program that they start it does nothing.
 *
 * An effect has a name: the call, and what it is about. Digits in it are "#", digests "@", the
 * agent's directory "~", so that it is the same in another run; the same name is counted.
 */

#define _GNU_SOURCE
/* The names with and without 64 are functions of their own here. */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { OFF, RECORD, FAIL };
enum { SHORT = -1 };
#define NAME 512

/* Shared with lab/faults.py, which knows these places. */
struct control {
    _Atomic uint32_t mode;
    _Atomic uint32_t process;    /* whose effects count, and those of its children; 0: all */
    int32_t error;               /* SHORT: half of the bytes */
    uint32_t number;             /* of the effects with this name, from 0 */
    uint32_t lasting;            /* from then on nothing that takes room is possible */
    _Atomic uint32_t seen;
    _Atomic uint32_t hit;
    _Atomic uint32_t tail;       /* of the record */
    uint32_t size;               /* of the record */
    char name[NAME];
    char directory[NAME];        /* the disk that lasts */
    char record[];
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AMPHORA_FAULTS"), *word = getenv("AMPHORA_FAULTS_WORD");
    if (path == NULL || word == NULL) return;
    static char program[NAME];
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    if (size <= 0 || strstr(program, "/python") == NULL) return;
    int own = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    static char line[1 << 16];
    ssize_t length = syscall(SYS_read, own, line, sizeof line - 1);
    close(own);
    if (length <= 0 || memmem(line, length, word, strlen(word)) == NULL) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) return;
    void *memory = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED) control = memory;
}

/* What an effect is about */

static void name_of(char *name, const char *call, const char *target) {
    size_t at = 0;
    for (const char *c = call; *c && at < NAME - 2; c++) name[at++] = *c;
    name[at++] = ' ';
    while (*target && at < NAME - 2) {
        size_t top = strlen(control->directory);
        if (top && strncmp(target, control->directory, top) == 0) {
            name[at++] = '~';
            target += top;
            continue;
        }
        size_t hex = strspn(target, "0123456789abcdef"), digits = strspn(target, "0123456789");
        if (hex >= 32) {
            name[at++] = '@';
            target += hex;
        } else if (digits) {
            name[at++] = '#';
            target += digits;
        } else if (hex) { /* letters of a word */
            name[at++] = *target++;
        } else {
            name[at++] = *target == '\n' ? ' ' : *target;
            target++;
        }
    }
    name[at] = 0;
}

static void path_of(char *path, int descriptor) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlink, link, path, NAME - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void place_of(char *place, int directory, const char *path) {
    place[0] = 0;
    if (path[0] != '/' && directory != AT_FDCWD) {
        path_of(place, directory);
        strncat(place, "/", NAME - 1 - strlen(place));
    }
    strncat(place, path, NAME - 1 - strlen(place));
}

static void peer_of(char *peer, int descriptor) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    int family = 0, kind = 0;
    socklen_t size = sizeof family;
    getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &size);
    size = sizeof kind;
    getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &kind, &size);
    if (family == AF_UNIX) {
        if (getpeername(descriptor, (struct sockaddr *)&address, &length) != 0) length = 0;
        const char *path = ((struct sockaddr_un *)&address)->sun_path;
        snprintf(peer, NAME, "unix %.*s", (int)sizeof address - 2, length > 2 ? path : "");
    } else if (family == AF_NETLINK) {
        strcpy(peer, "netlink");
    } else {
        strcpy(peer, kind == SOCK_DGRAM ? "udp" : kind == SOCK_STREAM ? "tcp" : "raw");
    }
}

/* Whether this effect fails now: 0, an error, or SHORT. `takes_room`: also on a full disk. */

static int counts(void) {
    if (control == NULL || control->mode == OFF) return 0;
    pid_t process = (pid_t)control->process;
    return process == 0 || getpid() == process || getppid() == process;
}

static int fails(const char *call, const char *target, int takes_room) {
    char name[NAME];
    name_of(name, call, target);
    if (control->mode == RECORD) {
        size_t length = strlen(name);
        uint32_t at = atomic_fetch_add(&control->tail, length + 1);
        if (at + length + 1 <= control->size) {
            memcpy(control->record + at, name, length);
            control->record[at + length] = '\n';
        }
        return 0;
    }
    if (control->hit && control->lasting && takes_room &&
        strncmp(target, control->directory, strlen(control->directory)) == 0)
        return control->error;
    if (strcmp(name, control->name) != 0) return 0;
    if (atomic_fetch_add(&control->seen, 1) != control->number) return 0;
    control->hit = 1;
    return control->error;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Effects on one target, which is a string. */
#define REFUSE(call, target, takes_room, failed) \
    if (counts()) { \
        int saved = errno, error = fails(call, target, takes_room); \
        if (error > 0) { errno = error; return failed; } \
        errno = saved; \
    }

/* Files */

static int opens(int flags) {
    if ((flags & O_PATH) != 0) return 0;
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) != 0;
}

static const char *ending(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot ? dot : "";
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), more = strlen(end);
    return length >= more && strcmp(path + length - more, end) == 0;
}

/* Reading is an effect where it takes a descriptor; of the interpreter's own files it is none, nor is
   looking for modules beside the command. */
static int reads_program(const char *path) {
    const char *end = ending(path);
    return ends_with(path, "/bin") || ends_with(path, "/pyvenv.cfg") || strcmp(end, ".py") == 0 || strcmp(end, ".pyc") == 0 || strcmp(end, ".so") == 0 ||
           strstr(path, "/lib/python") != NULL || strstr(path, "site-packages") != NULL;
}

static int (*real_openat)(int, const char *, int, ...);

static int open_place(int directory, const char *path, int flags, mode_t mode) {
    if (real_openat == NULL)
        real_openat = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    if (counts()) {
        char place[NAME];
        place_of(place, directory, path);
        if (opens(flags)) {
            REFUSE("open-to-write", place, 1, -1);
        } else if (!reads_program(place)) {
            REFUSE("open-to-read", place, 0, -1);
        }
    }
    return real_openat(directory, path, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, int); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_place(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_place(AT_FDCWD, path, flags, mode);
}
int openat(int directory, const char *path, int flags, ...) {
    MODE(flags)
    return open_place(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
    MODE(flags)
    return open_place(directory, path, flags, mode);
}
int __open_2(const char *path, int flags) { return open_place(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_place(AT_FDCWD, path, flags, 0); }
int __openat64_2(int directory, const char *path, int flags) {
    return open_place(directory, path, flags, 0);
}
int creat(const char *path, mode_t mode) {
    return open_place(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

DIR *opendir(const char *path) {
    REAL(opendir);
    if (!reads_program(path)) { REFUSE("list", path, 0, NULL); }
    return real(path);
}
DIR *fdopendir(int descriptor) {
    REAL(fdopendir);
    char path[NAME];
    path_of(path, descriptor);
    if (!reads_program(path)) { REFUSE("list", path, 0, NULL); }
    return real(descriptor);
}

/* What a descriptor is: "" for what is no effect (a pipe, memory, an event). */
static void target_of(char *target, int descriptor) {
    struct stat status;
    target[0] = 0;
    if (fstat(descriptor, &status) != 0) return;
    if (S_ISSOCK(status.st_mode)) {
        peer_of(target, descriptor);
    } else if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
        path_of(target, descriptor);
        if (strncmp(target, "/memfd:", 7) == 0) target[0] = 0;
    }
}

#define DESCRIPTOR(call, takes_room) \
    if (counts()) { \
        char target[NAME]; \
        target_of(target, descriptor); \
        if (target[0]) { REFUSE(call, target, takes_room, -1); } \
    }

/* The error, 0, or half of the bytes. */
static int writes(const char *call, int descriptor) {
    char target[NAME];
    target_of(target, descriptor);
    return target[0] ? fails(call, target, 1) : 0;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    if (counts()) {
        int saved = errno, error = writes("write", descriptor);
        if (error > 0) { errno = error; return -1; }
        errno = saved;
        if (error == SHORT) return real(descriptor, data, size / 2);
    }
    return real(descriptor, data, size);
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (counts()) {
        int saved = errno, error = writes("write", descriptor);
        if (error > 0) { errno = error; return -1; }
        errno = saved;
        if (error == SHORT) return real(descriptor, data, size / 2, at);
    }
    return real(descriptor, data, size, at);
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) {
    return pwrite64(descriptor, data, size, at);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    if (counts()) {
        int saved = errno, error = writes("write", descriptor);
        if (error > 0) { errno = error; return -1; }
        errno = saved;
        if (error == SHORT && count) return write(descriptor, parts[0].iov_base, parts[0].iov_len / 2);
    }
    return real(descriptor, parts, count);
}
ssize_t read(int descriptor, void *data, size_t size) {
    REAL(read);
    if (counts()) {
        char target[NAME];
        target_of(target, descriptor);
        if (target[0] && !reads_program(target)) { REFUSE("read", target, 0, -1); }
    }
    return real(descriptor, data, size);
}

int fsync(int descriptor) { REAL(fsync); DESCRIPTOR("sync", 0); return real(descriptor); }
int fdatasync(int descriptor) { REAL(fdatasync); DESCRIPTOR("sync", 0); return real(descriptor); }
int syncfs(int descriptor) { REAL(syncfs); DESCRIPTOR("sync", 0); return real(descriptor); }
int ftruncate64(int descriptor, off64_t size) {
    REAL(ftruncate64);
    DESCRIPTOR("truncate", 0);
    return real(descriptor, size);
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
int truncate64(const char *path, off64_t size) {
    REAL(truncate64);
    REFUSE("truncate", path, 0, -1);
    return real(path, size);
}
int truncate(const char *path, off_t size) { return truncate64(path, size); }
/* This one returns its error. */
int posix_fallocate64(int descriptor, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    if (counts()) {
        int error = writes("allocate", descriptor);
        if (error > 0) return error;
    }
    return real(descriptor, at, size);
}
int posix_fallocate(int descriptor, off_t at, off_t size) {
    return posix_fallocate64(descriptor, at, size);
}
int fchmod(int descriptor, mode_t mode) { REAL(fchmod); DESCRIPTOR("chmod", 0); return real(descriptor, mode); }
int fchown(int descriptor, uid_t user, gid_t group) {
    REAL(fchown);
    DESCRIPTOR("chown", 0);
    return real(descriptor, user, group);
}
int futimens(int descriptor, const struct timespec times[2]) {
    REAL(futimens);
    DESCRIPTOR("utimes", 0);
    return real(descriptor, times);
}

#define PATH1(name, call, takes_room, parameters, ...) \
    int name parameters { \
        REAL(name); \
        REFUSE(call, path, takes_room, -1); \
        return real(__VA_ARGS__); \
    }
#define PATH_AT(name, call, takes_room, parameters, ...) \
    int name parameters { \
        REAL(name); \
        if (counts()) { \
            char place[NAME]; \
            place_of(place, directory, path); \
            REFUSE(call, place, takes_room, -1); \
        } \
        return real(__VA_ARGS__); \
    }

PATH1(chmod, "chmod", 0, (const char *path, mode_t mode), path, mode)
PATH_AT(fchmodat, "chmod", 0, (int directory, const char *path, mode_t mode, int flags), directory, path, mode, flags)
PATH1(chown, "chown", 0, (const char *path, uid_t user, gid_t group), path, user, group)
PATH1(lchown, "chown", 0, (const char *path, uid_t user, gid_t group), path, user, group)
PATH_AT(fchownat, "chown", 0, (int directory, const char *path, uid_t user, gid_t group, int flags), directory, path, user, group, flags)
PATH_AT(utimensat, "utimes", 0, (int directory, const char *path, const struct timespec times[2], int flags), directory, path, times, flags)
PATH1(mkdir, "mkdir", 1, (const char *path, mode_t mode), path, mode)
PATH_AT(mkdirat, "mkdir", 1, (int directory, const char *path, mode_t mode), directory, path, mode)
PATH1(rmdir, "rmdir", 0, (const char *path), path)
PATH1(unlink, "unlink", 0, (const char *path), path)
PATH_AT(unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink", 0, (int directory, const char *path, int flags), directory, path, flags)

/* Of two places, the one that comes is what it is about. */
int rename(const char *from, const char *path) {
    REAL(rename);
    REFUSE("rename", path, 0, -1);
    return real(from, path);
}
PATH_AT(renameat, "rename", 0, (int from, const char *old, int directory, const char *path), from, old, directory, path)
PATH_AT(renameat2, "rename", 0, (int from, const char *old, int directory, const char *path, unsigned flags), from, old, directory, path, flags)
PATH1(link, "link", 1, (const char *from, const char *path), from, path)
PATH_AT(linkat, "link", 1, (int from, const char *old, int directory, const char *path, int flags), from, old, directory, path, flags)
PATH1(symlink, "symlink", 1, (const char *to, const char *path), to, path)
PATH_AT(symlinkat, "symlink", 1, (const char *to, int directory, const char *path), to, directory, path)
int mount(const char *source, const char *path, const char *type, unsigned long flags, const void *data) {
    REAL(mount);
    REFUSE("mount", path, 0, -1);
    return real(source, path, type, flags, data);
}
PATH1(umount, "umount", 0, (const char *path), path)
PATH1(umount2, "umount", 0, (const char *path, int flags), path, flags)

/* Processes and threads */

pid_t fork(void) { REAL(fork); REFUSE("fork", "", 0, -1); return real(); }
/* A function that returns cannot be wrapped around vfork; fork does all that it promises. */
pid_t vfork(void) { return fork(); }

static const char *last_word(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void command_of(char *command, const char *path, char *const argv[]) {
    snprintf(command, NAME, "%s", last_word(path));
    for (int i = 1; argv[0] && argv[i] && i < 4; i++) {
        strncat(command, " ", NAME - 1 - strlen(command));
        strncat(command, last_word(argv[i]), NAME - 1 - strlen(command));
    }
}
int execve(const char *path, char *const argv[], char *const environment[]) {
    REAL(execve);
    /* Python tries every directory of the PATH. */
    if (counts() && access(path, X_OK) == 0) {
        char command[NAME];
        command_of(command, path, argv);
        REFUSE("execute", command, 0, -1);
    }
    return real(path, argv, environment);
}
int execv(const char *path, char *const argv[]) { return execve(path, argv, environ); }
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    REAL(pthread_create);
    if (counts()) { /* This one returns its error. */
        int error = fails("thread", "", 0);
        if (error > 0) return error;
    }
    return real(thread, attributes, body, argument);
}
static void signal_name(char *name, int number) { snprintf(name, NAME, "%s", sigabbrev_np(number) ? sigabbrev_np(number) : ""); }

int kill(pid_t process, int number) {
    REAL(kill);
    if (counts() && process != getpid() && number != 0) {
        char name[NAME];
        signal_name(name, number);
        REFUSE("signal", name, 0, -1);
    }
    return real(process, number);
}
int killpg(pid_t group, int number) {
    REAL(killpg);
    if (counts()) {
        char name[NAME];
        signal_name(name, number);
        REFUSE("signal-group", name, 0, -1);
    }
    return real(group, number);
}
int unshare(int flags) { REAL(unshare); REFUSE("unshare", "", 0, -1); return real(flags); }
int setns(int descriptor, int kind) { REAL(setns); REFUSE("setns", "", 0, -1); return real(descriptor, kind); }

long syscall(long number, ...) {
    REAL(syscall);
    long words[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) words[i] = va_arg(more, long);
    va_end(more);
    if (counts()) {
        char name[NAME];
        switch (number) {
        case SYS_pidfd_open: REFUSE("pidfd-open", "", 0, -1); break;
        case SYS_pidfd_send_signal:
            signal_name(name, (int)words[1]);
            if (words[1] != 0) { REFUSE("signal", name, 0, -1); }
            break;
        case SYS_setns: REFUSE("setns", "", 0, -1); break;
        case SYS_renameat2: REFUSE("rename", (const char *)words[3], 0, -1); break;
        }
    }
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

/* Descriptors */

int pipe(int ends[2]) { REAL(pipe); REFUSE("pipe", "", 0, -1); return real(ends); }
int pipe2(int ends[2], int flags) { REAL(pipe2); REFUSE("pipe", "", 0, -1); return real(ends, flags); }
int dup(int descriptor) { REAL(dup); REFUSE("dup", "", 0, -1); return real(descriptor); }
int epoll_create1(int flags) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "epoll_create1");
    REFUSE("epoll", "", 0, -1);
    return real(flags);
}

/* Sockets */

static const char *family_of(int family) {
    return family == AF_UNIX ? "unix" : family == AF_NETLINK ? "netlink" : family == AF_PACKET ? "packet" : "inet";
}
int socket(int family, int type, int protocol) {
    REAL(socket);
    REFUSE("socket", family_of(family), 0, -1);
    return real(family, type, protocol);
}
int socketpair(int family, int type, int protocol, int ends[2]) {
    REAL(socketpair);
    REFUSE("socketpair", family_of(family), 0, -1);
    return real(family, type, protocol, ends);
}
int accept4(int descriptor, struct sockaddr *address, socklen_t *length, int flags) {
    REAL(accept4);
    DESCRIPTOR("accept", 0);
    return real(descriptor, address, length, flags);
}
static void address_name(char *name, const struct sockaddr *address) {
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    int is_path = address->sa_family == AF_UNIX && path[0];
    snprintf(name, NAME, "%s %s", family_of(address->sa_family), is_path ? path : "");
}
int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
    REAL(connect);
    if (counts()) {
        char name[NAME];
        address_name(name, address);
        REFUSE("connect", name, 0, -1);
    }
    return real(descriptor, address, length);
}
int bind(int descriptor, const struct sockaddr *address, socklen_t length) {
    REAL(bind);
    if (counts()) {
        char name[NAME];
        address_name(name, address);
        REFUSE("bind", name, 0, -1);
    }
    return real(descriptor, address, length);
}
ssize_t send(int descriptor, const void *data, size_t size, int flags) {
    REAL(send);
    if (counts()) {
        int saved = errno, error = writes("send", descriptor);
        if (error > 0) { errno = error; return -1; }
        errno = saved;
        if (error == SHORT) return real(descriptor, data, size / 2, flags);
    }
    return real(descriptor, data, size, flags);
}
ssize_t sendto(int descriptor, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    REAL(sendto);
    DESCRIPTOR("send", 0);
    return real(descriptor, data, size, flags, address, length);
}
ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    DESCRIPTOR("send", 0);
    return real(descriptor, message, flags);
}
ssize_t recv(int descriptor, void *data, size_t size, int flags) {
    REAL(recv);
    DESCRIPTOR("receive", 0);
    return real(descriptor, data, size, flags);
}
ssize_t recvfrom(int descriptor, void *data, size_t size, int flags, struct sockaddr *restrict address, socklen_t *restrict length) {
    REAL(recvfrom);
    DESCRIPTOR("receive", 0);
    return real(descriptor, data, size, flags, address, length);
}
ssize_t recvmsg(int descriptor, struct msghdr *message, int flags) {
    REAL(recvmsg);
    DESCRIPTOR("receive", 0);
    return real(descriptor, message, flags);
}
