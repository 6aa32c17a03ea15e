/* SPDX-License-Identifier: Apache-2.0 */
/* The sockets below links: addresses, listening, connecting with a deadline.
 *
 * Invariant: every socket made here is non-blocking and closed on exec, and every connection has
 * TCP_NODELAY and keep-alive probes, so that a host that vanishes is noticed within half a minute.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/internal.h"
#include "wire.h"

int tessi_wait_ms(int64_t deadline_ns, int most_ms)
{
    int64_t left_ns = deadline_ns - tessi_now_ns();
    if (left_ns <= 0) return 0;
    int64_t left_ms = (left_ns - 1) / 1000000 + 1;
    return left_ms < most_ms ? (int)left_ms : most_ms;
}

tess_status_t tessi_address_split(const char *name, const char *text, char host[TESSI_HOST_BYTES],
                                  int *port)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text, *end = colon;
    if (text[0] == '[') {
        begin = text + 1;
        end = strchr(text, ']');
        if (end) colon = end[1] == ':' ? end + 1 : NULL;
    } else if (colon && memchr(text, ':', (size_t)(colon - text))) {
        colon = NULL; /* an IPv6 address needs brackets, or its last group would be the port */
    }
    if (!colon || !end || end == begin || end - begin >= TESSI_HOST_BYTES)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is '%s', but must be host:port or [IPv6 address]:port", name, text);
    char *rest;
    errno = 0;
    long number = strtol(colon + 1, &rest, 10);
    if (rest == colon + 1 || *rest || errno || number < 1 || number > 65535)
        return tessi_fail(TESS_ERR_INVALID_ARGUMENT,
                          "%s is '%s', but its port must be a number from 1 to 65535", name, text);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    *port = (int)number;
    return TESS_OK;
}

static tess_status_t resolve(const char *host, int port, int flags, struct addrinfo **list)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int error = getaddrinfo(host, service, &hints, list);
    if (error == 0) return TESS_OK;
    /* Everything else may pass: a name server that is not up yet, too many open files. */
    int is_unknown = error == EAI_NONAME || error == EAI_NODATA || error == EAI_FAIL;
    return tessi_fail(is_unknown ? TESS_ERR_NOT_FOUND : TESS_ERR_SYSTEM,
                      "cannot find host '%s': %s", host ? host : "any",
                      error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
}

static int open_socket(int family)
{
    if (tessi_fault("socket")) {
        errno = EMFILE;
        return -1;
    }
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static void set_option(int fd, int level, int option, int value)
{
    /* None of these is worth failing for: a connection works without them, only less well. */
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

static void tune_connection(int fd)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
    /* Lets the next world of this job listen on the same port while this connection lingers. */
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

static int listen_at(const struct addrinfo *address, int backlog)
{
    int fd = open_socket(address->ai_family);
    if (fd < 0) return -1;
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (address->ai_family == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, backlog) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

tess_status_t tessi_socket_listen(const char *host, int port, int any_address, int backlog, int *fd)
{
    struct addrinfo *list = NULL;
    tess_status_t status = resolve(any_address ? NULL : host, port, AI_PASSIVE, &list);
    if (status != TESS_OK) return status;
    int listener = -1, error = 0;
    /* IPv6 first where all addresses are meant, since that socket takes IPv4 too. */
    for (int pass = 0; pass < 2 && listener < 0; pass++) {
        for (struct addrinfo *a = list; a && listener < 0; a = a->ai_next) {
            if ((a->ai_family == AF_INET6) != (pass == 0)) continue;
            listener = listen_at(a, backlog);
            if (listener < 0 && error != EADDRINUSE) error = errno;
        }
    }
    freeaddrinfo(list);
    if (listener < 0) {
        const char *hint = "";
        if (error == EADDRNOTAVAIL) hint = " (rank 0 must run on that host)";
        if (error == EADDRINUSE) hint = " (another program listens there)";
        status = tessi_fail_errno(error, "rank 0 cannot listen on %s port %d%s",
                                  any_address ? "any address," : host, port, hint);
        errno = error;
        return status;
    }
    *fd = listener;
    return TESS_OK;
}

/* 0 when connected, else errno. */
static int connect_to(const struct addrinfo *address, int64_t deadline_ns, int *fd)
{
    int connection = open_socket(address->ai_family);
    if (connection < 0) return errno;
    int error = 0;
    if (tessi_fault("socket")) error = ECONNREFUSED;
    else if (connect(connection, address->ai_addr, address->ai_addrlen) != 0) error = errno;
    if (error == EINPROGRESS) {
        struct pollfd wait = {.fd = connection, .events = POLLOUT};
        int ready;
        do ready = poll(&wait, 1, tessi_wait_ms(deadline_ns, 3000));
        while (ready < 0 && errno == EINTR);
        socklen_t length = sizeof error;
        if (ready == 0) error = ETIMEDOUT;
        else if (ready < 0 || getsockopt(connection, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
            error = errno;
    }
    if (error == 0) {
        tune_connection(connection);
        *fd = connection;
        return 0;
    }
    close(connection);
    return error;
}

/* Connecting to a port of one's own host that nobody listens on can, by chance, get that very port
 * as its source: TCP then connects the socket to itself. */
static int is_connected_to_itself(int fd)
{
    struct sockaddr_storage here, there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    socklen_t here_bytes = sizeof here, there_bytes = sizeof there;
    return getsockname(fd, (struct sockaddr *)&here, &here_bytes) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_bytes) == 0 &&
           here_bytes == there_bytes && memcmp(&here, &there, here_bytes) == 0;
}

tess_status_t tessi_socket_connect(const char *host, int port, int64_t deadline_ns, int *fd)
{
    struct addrinfo *list = NULL;
    tess_status_t status = resolve(host, port, 0, &list);
    if (status != TESS_OK) return status;
    int error = EHOSTUNREACH;
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        error = connect_to(a, deadline_ns, fd);
        if (error == 0 && is_connected_to_itself(*fd)) {
            close(*fd);
            error = ECONNREFUSED;
        }
        if (error == 0) break;
    }
    freeaddrinfo(list);
    if (error == 0) return TESS_OK;
    return tessi_fail_errno(error, "cannot connect to %s port %d", host, port);
}

int tessi_socket_accept(int listener, char *from, size_t from_bytes)
{
    if (tessi_fault("socket")) {
        errno = ECONNABORTED;
        return -1;
    }
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd;
    do fd = accept4(listener, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return -1;
    tune_connection(fd);
    if (getnameinfo((struct sockaddr *)&address, length, from, (socklen_t)from_bytes, NULL, 0,
                    NI_NUMERICHOST) != 0)
        snprintf(from, from_bytes, "unknown address");
    return fd;
}
