/* A file system that lacks something below the folder that its test names, by LD_PRELOAD:
   no locks, no fsync, no space after so many bytes, or nothing to be written at all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long left = -2; /* bytes until the disk is full, -1 for any number */

static int lacks(const char *what) {
    const char *told = getenv("LACKS");
    return told && strcmp(told, what) == 0;
}

static int below(const char *path) {
    const char *root = getenv("LACKS_BELOW");
    return root && strncmp(path, root, strlen(root)) == 0;
}

static int is_there(int fd) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && below(path);
}

static int refuse(int code) {
    errno = code;
    return -1;
}

static int is_full(int fd, size_t count) {
    if (!lacks("space") || !is_there(fd)) return 0;
    if (left == -2) left = atol(getenv("LACKS_AFTER"));
    if ((long)count > left) return 1;
    left -= count;
    return 0;
}

int flock(int fd, int kind) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    return lacks("locks") && is_there(fd) ? refuse(ENOLCK) : real(fd, kind);
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return lacks("fsync") && is_there(fd) ? refuse(EINVAL) : real(fd);
}

ssize_t write(int fd, const void *data, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return is_full(fd, count) ? refuse(ENOSPC) : real(fd, data, count);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    size_t count = 0;
    for (int i = 0; i < number; i++) count += parts[i].iov_len;
    return is_full(fd, count) ? refuse(ENOSPC) : real(fd, parts, number);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    return is_full(fd, count) ? refuse(ENOSPC) : real(fd, data, count, at);
}

static int is_read_only(const char *path, int flags) {
    return lacks("writing") && (flags & (O_WRONLY | O_RDWR | O_CREAT)) && below(path);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return is_read_only(path, flags) ? refuse(EROFS) : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return is_read_only(path, flags) ? refuse(EROFS) : real(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    return lacks("writing") && below(path) ? refuse(EROFS) : real(path, mode);
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    return lacks("writing") && below(to) ? refuse(EROFS) : real(from, to);
}

int unlink(const char *path) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    return lacks("writing") && below(path) ? refuse(EROFS) : real(path);
}
