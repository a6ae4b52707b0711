/* LD_PRELOAD: what a disk had not been told to keep, a read-only disk, and a clock that jumps.
 *
 * Every change below $FAULT_ROOT is noted in $FAULT_JOURNAL together with what it replaced, and so
 * is every fsync once it has returned; `power.py` takes back what no fsync covers, as a power cut
 * may. $FAULT_CONTROL is a page that the test shares: two int64, nanoseconds by which the wall
 * clock is off, and whether the disk is read-only. Anything else passes through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

struct record { /* then the path, the other path, the old bytes and the new bytes */
    uint64_t op, inode;
    int64_t offset, size;
    uint32_t path, other, old_bytes, new_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int64_t *control;
static const char *root;
static size_t root_length;
static int journal = -1;
static unsigned graves;

__attribute__((constructor)) static void begin(void) {
    const char *page = getenv("FAULT_CONTROL"), *notes = getenv("FAULT_JOURNAL");
    root = getenv("FAULT_ROOT");
    if (!page || !notes || !root) return;
    root_length = strlen(root);
    int file = open(page, O_RDWR | O_CLOEXEC);
    if (file >= 0) {
        void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (map != MAP_FAILED) control = map;
        close(file);
    }
    journal = open(notes, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static int below(const char *path) {
    return path && journal >= 0 && !strncmp(path, root, root_length) && path[root_length] == '/';
}

/* The file behind a descriptor, if it is one of ours. */
static int ours(int descriptor, char *path, struct stat *status) {
    char link[64];
    if (journal < 0 || fstat(descriptor, status)) return 0;
    if (!S_ISREG(status->st_mode) && !S_ISDIR(status->st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path) || !strcmp(path, root);
}

static int read_only(void) {
    if (!control || !control[1]) return 0;
    errno = EROFS;
    return 1;
}

static void note(char op, uint64_t inode, int64_t offset, int64_t size, const char *path,
                 const char *other, const void *old, size_t old_bytes, const void *new,
                 size_t new_bytes) {
    struct record head = {(uint64_t)op, inode, offset, size, (uint32_t)strlen(path),
                          (uint32_t)strlen(other), (uint32_t)old_bytes, (uint32_t)new_bytes};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path},
                            {(void *)other, head.other}, {(void *)old, old_bytes},
                            {(void *)new, new_bytes}};
    int error = errno;
    /* One call: O_APPEND keeps records of several threads and processes apart. */
    if (writev(journal, parts, 5) < 0) abort();
    errno = error;
}

/* Before bytes [offset, offset + count) of a file change. */
static void note_write(int descriptor, const char *path, const struct stat *status, char op,
                       const void *new, size_t count, int64_t offset) {
    int64_t end = op == 'T' ? status->st_size : offset + (int64_t)count;
    if (end > status->st_size) end = status->st_size;
    size_t kept = end > offset ? (size_t)(end - offset) : 0;
    void *old = malloc(kept ? kept : 1);
    if (pread(descriptor, old, kept, offset) != (ssize_t)kept) {
        /* Not open for reading. Never for a database: closing a second descriptor of a file drops
         * all locks of the process on it. */
        int reader = open(path, O_RDONLY | O_CLOEXEC);
        if (reader < 0 || pread(reader, old, kept, offset) != (ssize_t)kept) kept = 0;
        if (reader >= 0) close(reader);
    }
    note(op, status->st_ino, offset, status->st_size, path, "", old, kept, new,
         op == 'T' ? 0 : count);
    free(old);
}

static int start_write(int descriptor, const void *data, size_t count, int64_t offset) {
    char path[PATH_MAX];
    struct stat status;
    if (!ours(descriptor, path, &status) || !S_ISREG(status.st_mode)) return 0;
    if (read_only()) return -1;
    if (offset < 0) {
        offset = lseek(descriptor, 0, SEEK_CUR);
        if (fcntl(descriptor, F_GETFL) & O_APPEND) offset = status.st_size;
    }
    pthread_mutex_lock(&lock);
    note_write(descriptor, path, &status, 'W', data, count, offset);
    return 1;
}

#define WRITE(call) \
    if (state < 0) return -1; \
    ssize_t done = call; \
    if (state) pthread_mutex_unlock(&lock); \
    return done

ssize_t write(int descriptor, const void *data, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    int state = start_write(descriptor, data, count, -1);
    WRITE(real(descriptor, data, count));
}

ssize_t pwrite(int descriptor, const void *data, size_t count, off_t offset) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    int state = start_write(descriptor, data, count, offset);
    WRITE(real(descriptor, data, count, offset));
}

ssize_t pwrite64(int descriptor, const void *data, size_t count, off64_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    int state = start_write(descriptor, data, count, offset);
    WRITE(real(descriptor, data, count, offset));
}

static int start_truncate(int descriptor, int64_t size) {
    char path[PATH_MAX];
    struct stat status;
    if (!ours(descriptor, path, &status)) return 0;
    if (read_only()) return -1;
    note_write(descriptor, path, &status, 'T', NULL, 0, size);
    return 0;
}

int ftruncate(int descriptor, off_t size) {
    REAL(int, ftruncate, int, off_t);
    return start_truncate(descriptor, size) ? -1 : real(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    return start_truncate(descriptor, size) ? -1 : real(descriptor, size);
}

/* Only what was written before the call is covered; SQLite and we write from one thread at once. */
static int synced(int descriptor, int result) {
    char path[PATH_MAX];
    struct stat status;
    if (!result && ours(descriptor, path, &status))
        note(S_ISDIR(status.st_mode) ? 'D' : 'S', status.st_ino, 0, 0, path, "", NULL, 0, NULL, 0);
    return result;
}

int fsync(int descriptor) {
    REAL(int, fsync, int);
    return synced(descriptor, real(descriptor));
}

int fdatasync(int descriptor) {
    REAL(int, fdatasync, int);
    return synced(descriptor, real(descriptor));
}

static int start_open(const char *path, int flags) {
    struct stat status;
    if (!below(path) || (flags & O_ACCMODE) == O_RDONLY) return 0;
    int missing = stat(path, &status) != 0;
    /* As Linux has it: what exists may not be opened for writing, what is missing not be made. */
    if ((!missing || flags & O_CREAT) && read_only()) return -1;
    if (missing && flags & O_CREAT) note('C', 0, 0, 0, path, "", NULL, 0, NULL, 0);
    if (!missing && flags & O_TRUNC) note_write(-1, path, &status, 'T', NULL, 0, 0);
    return 0;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return start_open(path, flags) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

/* Keeps a file that is about to lose its name, for a name that comes back. */
static void bury(const char *path, char *grave) {
    snprintf(grave, PATH_MAX, "%s.graves/%d-%u", root, (int)getpid(), graves++);
    if (link(path, grave)) grave[0] = 0;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    char grave[PATH_MAX];
    if (!below(to)) return real(from, to);
    if (read_only()) return -1;
    pthread_mutex_lock(&lock);
    bury(to, grave);
    note('R', 0, 0, 0, from, to, grave, strlen(grave), NULL, 0);
    int result = real(from, to);
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    char grave[PATH_MAX];
    struct stat status;
    if (!below(path) || stat(path, &status)) return real(path);
    if (read_only()) return -1;
    pthread_mutex_lock(&lock);
    bury(path, grave);
    note('U', 0, 0, 0, path, "", grave, strlen(grave), NULL, 0);
    int result = real(path);
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    struct stat status;
    if (!below(path) || !stat(path, &status)) return real(path, mode);
    if (read_only()) return -1;
    note('M', 0, 0, 0, path, "", NULL, 0, NULL, 0);
    return real(path, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(clock, now);
    if (!result && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t shifted = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + control[0];
        now->tv_sec = shifted / 1000000000;
        now->tv_nsec = shifted % 1000000000;
    }
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    (void)zone;
    return 0;
}

/* A clock that jumps is held to no reference, whatever the machine's own is: TIME_ERROR. */
int adjtimex(void *state) {
    (void)state;
    return 5;
}
