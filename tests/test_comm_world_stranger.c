/* SPDX-License-Identifier: Apache-2.0 */
/* Whoever else knocks: port scanners, other jobs, other versions, services that happen to listen on
 * the port, and ranks that send nonsense. None may disturb the ranks, crash or stall them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "comm/control.h"
#include "harness.h"

static void pause_ms(int ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void expect_text(const char *part)
{
    if (strstr(tess_last_error(), part)) return;
    fprintf(stderr, "[rank %s] expected '%s' in '%s'\n", getenv("TESS_RANK"), part,
            tess_last_error());
    _exit(1);
}

static int root_port(void)
{
    return atoi(strchr(getenv("TESS_ROOT"), ':') + 1);
}

static int knock(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)root_port()),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    RANK_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void say(int fd, const void *bytes, size_t count)
{
    (void)!send(fd, bytes, count, MSG_NOSIGNAL);
}

static tess_world_t *open_world(int timeout_ms)
{
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    tess_world_t *world = NULL;
    config.timeout_ms = timeout_ms;
    RANK_OK(tess_world_open(&config, &world));
    return world;
}

static int join_quickly(void)
{
    int64_t begin_ns = tessi_now_ns();
    tess_world_t *world = open_world(20000);
    RANK_OK(tess_world_barrier(world, 10000));
    RANK_CHECK(tessi_now_ns() - begin_ns < INT64_C(8000000000));
    tess_world_close(world);
    return 0;
}

static tessi_hello_t good_hello(void)
{
    tessi_hello_t hello = {.magic = TESSI_PROTOCOL_MAGIC,
                           .version = TESSI_PROTOCOL_VERSION,
                           .rank = 1,
                           .size = 2,
                           .peer = {.host = "elsewhere", .pid = 1}};
    return hello;
}

static void say_hello(int fd, const tessi_hello_t *hello)
{
    tessi_header_t header = {sizeof *hello, TESSI_MESSAGE_HELLO, TESSI_WIRE_MARK};
    say(fd, &header, sizeof header);
    say(fd, hello, sizeof *hello);
}

/* The refusal that comes on this connection. */
static tessi_refusal_t read_refusal(int fd)
{
    tessi_header_t header;
    tessi_refusal_t refusal;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    RANK_CHECK(poll(&wait, 1, 5000) == 1);
    RANK_CHECK(recv(fd, &header, sizeof header, MSG_WAITALL) == (ssize_t)sizeof header);
    RANK_CHECK(header.type == TESSI_MESSAGE_REFUSED && header.bytes == sizeof refusal);
    RANK_CHECK(recv(fd, &refusal, sizeof refusal, MSG_WAITALL) == (ssize_t)sizeof refusal);
    return refusal;
}

/* --- at the rendezvous --------------------------------------------------------------------------
 */

static int garbage_first(int rank, void *argument)
{
    (void)argument;
    if (rank == 0) return join_quickly();
    uint64_t random = 7;
    unsigned char noise[4096];
    static const char http[] = "GET / HTTP/1.0\r\nHost: somewhere\r\n\r\n";
    int silent = knock(), half = knock(); /* stay open all the time */
    say(half, "\x10\x00", 2);
    for (int n = 0; n < 20; n++) {
        int fd = knock();
        for (size_t b = 0; b < sizeof noise; b++) noise[b] = (unsigned char)test_random(&random);
        say(fd, noise, sizeof noise);
        close(fd);
    }
    int fd = knock();
    say(fd, http, sizeof http - 1);
    close(fd);
    /* The right mark, but a payload of 4 GiB, no payload, or one that never ends. */
    static const uint32_t sizes[] = {UINT32_MAX, 0, 3, sizeof(tessi_hello_t) - 1, 4096};
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        tessi_header_t header = {sizes[n], TESSI_MESSAGE_HELLO, TESSI_WIRE_MARK};
        fd = knock();
        say(fd, &header, sizeof header);
        say(fd, noise, sizes[n] < sizeof noise ? sizes[n] : 10);
        if (n != 4) close(fd);
    }
    /* Every type of message, from somebody who has not said hello. */
    for (uint16_t type = 0; type < 64; type++) {
        tessi_header_t header = {64, type, TESSI_WIRE_MARK};
        fd = knock();
        say(fd, &header, sizeof header);
        say(fd, noise, 64);
        close(fd);
    }
    int result = join_quickly();
    close(silent);
    close(half);
    return result;
}

static void test_garbage(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, garbage_first, NULL, 30000, NULL), 0);
}

static int silent_crowd(int rank, void *argument)
{
    (void)argument;
    int crowd[100];
    if (rank == 0) return join_quickly();
    for (int n = 0; n < 100; n++) crowd[n] = knock();
    int result = join_quickly();
    for (int n = 0; n < 100; n++) close(crowd[n]);
    return result;
}

static void test_silent_crowd(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, silent_crowd, NULL, 30000, NULL), 0);
}

static int bad_hellos(int rank, void *argument)
{
    (void)argument;
    if (rank == 0) return join_quickly();
    tessi_hello_t hello = good_hello();
    int fd = knock();
    hello.version = 999;
    say_hello(fd, &hello);
    tessi_refusal_t refusal = read_refusal(fd);
    RANK_CHECK(refusal.status == TESS_ERR_MISMATCH && !refusal.is_stranger);
    RANK_CHECK(strstr(refusal.sentence, "version 999 of the rendezvous") != NULL);
    close(fd);
    hello = good_hello();
    hello.cookie = 5;
    fd = knock();
    say_hello(fd, &hello);
    refusal = read_refusal(fd);
    RANK_CHECK(refusal.status == TESS_ERR_MISMATCH && refusal.is_stranger);
    close(fd);
    hello = good_hello();
    hello.magic++;
    fd = knock();
    say_hello(fd, &hello);
    close(fd);
    hello = good_hello();
    hello.rank = 2;
    fd = knock();
    say_hello(fd, &hello);
    close(fd);
    hello = good_hello(); /* turns away before it has confirmed: no rank is lost */
    fd = knock();
    say_hello(fd, &hello);
    close(fd);
    return join_quickly();
}

static void test_bad_hellos(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, bad_hellos, NULL, 30000, NULL), 0);
}

/* --- something else listens ----------------------------------------------------------------------
 */

static void listen_like(const char *answer, int ms)
{
    int listener = atoi(getenv("TESS_ROOT_FD"));
    int64_t end_ns = tessi_deadline_ns(ms);
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    while (tessi_now_ns() < end_ns) {
        if (poll(&wait, 1, 50) <= 0) continue;
        int fd = accept(listener, NULL, NULL);
        if (answer && fd >= 0) {
            say(fd, answer, strlen(answer));
            close(fd);
        } /* else it stays open and silent */
    }
}

static int foreign_service(int rank, void *argument)
{
    const char *answer = argument;
    tess_world_t *world;
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    if (rank == 0) {
        listen_like(answer, 2500);
        return 0;
    }
    config.timeout_ms = 1200;
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_TIMEOUT);
    expect_text("rank 0 did not answer at 127.0.0.1 port");
    if (answer && answer[0]) expect_text("answered with something that is no Tessera rank 0");
    return 0;
}

static void test_foreign_services(void **state)
{
    (void)state;
    char http[] = "HTTP/1.1 400 Bad Request\r\nServer: other\r\n\r\n", empty[] = "";
    assert_int_equal(test_ranks(2, foreign_service, http, 10000, NULL), 0);
    assert_int_equal(test_ranks(2, foreign_service, empty, 10000, NULL), 0);
    assert_int_equal(test_ranks(2, foreign_service, NULL, 10000, NULL), 0);
}

static void become_torchrun(int rank, int master_port, const char *run_id)
{
    char text[16];
    unsetenv("TESS_RANK");
    unsetenv("TESS_WORLD_SIZE");
    unsetenv("TESS_ROOT");
    snprintf(text, sizeof text, "%d", rank);
    setenv("RANK", text, 1);
    setenv("WORLD_SIZE", "2", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    snprintf(text, sizeof text, "%d", master_port);
    setenv("MASTER_PORT", text, 1);
    setenv("TORCHELASTIC_RUN_ID", run_id, 1);
}

/* A rank of one job meets rank 0 of another, at the same address. */
static int another_job(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world;
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    int port = 18000 + (int)getppid() % 2000;
    become_torchrun(rank, port, rank == 0 ? "today" : "yesterday");
    config.timeout_ms = rank == 0 ? 2500 : 1200; /* rank 0 outlives rank 1's attempts */
    RANK_CHECK(tess_world_open(&config, &world) == TESS_ERR_TIMEOUT);
    expect_text(rank == 0 ? "rank 1 did not come" : "rank 0 did not answer");
    if (rank == 0) expect_text("belongs to another job");
    else expect_text("rank 0 of another job answered");
    return 0;
}

static void test_another_job(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, another_job, NULL, 10000, NULL), 0);
}

/* The port that a job derives is taken: rank 0 moves on, and the others find it. */
static int taken_port(int rank, void *argument)
{
    int is_silent = *(int *)argument;
    char text[32];
    tessi_place_t place;
    tess_world_config_t config = TESS_WORLD_CONFIG_DEFAULT;
    unsetenv("TESS_RANK");
    unsetenv("TESS_WORLD_SIZE");
    unsetenv("TESS_ROOT");
    unsetenv("TESS_LOCAL_RANK");
    unsetenv("TESS_LOCAL_SIZE");
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
    snprintf(text, sizeof text, "job %d", (int)getppid());
    setenv("PMIX_NAMESPACE", text, 1);
    snprintf(text, sizeof text, "%d", rank);
    setenv("OMPI_COMM_WORLD_RANK", text, 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", text, 1);
    RANK_OK(tessi_place_find(&config, &place));
    int fd = -1;
    if (rank == 0) {
        RANK_OK(tessi_socket_listen("127.0.0.1", place.port, 0, is_silent ? 8 : 0, &fd));
    } else {
        pause_ms(300);
    }
    int result = join_quickly();
    if (fd >= 0) close(fd);
    return result;
}

static void test_taken_port(void **state)
{
    (void)state;
    int is_silent = 1;
    assert_int_equal(test_ranks(2, taken_port, &is_silent, 30000, NULL), 0);
}

/* --- a rank that has lost its mind
 * ---------------------------------------------------------------- */

static int mad_rank(int rank, void *argument)
{
    int kind = *(int *)argument;
    tess_world_t *world = open_world(20000);
    RANK_OK(tess_world_barrier(world, 10000));
    if (rank == 1) {
        tessi_header_t huge = {UINT32_MAX, TESSI_MESSAGE_POST, TESSI_WIRE_MARK};
        tessi_header_t odd = {0, 999, TESSI_WIRE_MARK};
        pthread_mutex_lock(&world->lock);
        if (kind == 0) say(world->link.fd, "this is no message", 18);
        if (kind == 1) say(world->link.fd, &huge, sizeof huge);
        if (kind == 2) say(world->link.fd, &odd, sizeof odd);
        pthread_mutex_unlock(&world->lock);
        pause_ms(1500);
        _exit(0);
    }
    RANK_CHECK(tess_world_barrier(world, 10000) == TESS_ERR_PEER_LOST);
    expect_text("rank 1 (pid ");
    expect_text("sent a message that makes no sense");
    tess_world_close(world);
    return 0;
}

static void test_mad_rank(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++)
        assert_int_equal(test_ranks(3, mad_rank, &kind, 20000, NULL), 0);
}

/* Random messages straight into rank 0's and the other's handlers. */
static int fuzz_handlers(int rank, void *argument)
{
    (void)argument;
    tess_world_t *world = open_world(20000);
    uint64_t random = 1234 + (uint64_t)rank;
    unsigned char *payload = malloc(4096);
    RANK_CHECK(payload);
    for (int n = 0; n < 60000; n++) {
        tessi_header_t header = {.mark = TESSI_WIRE_MARK};
        header.type = (uint16_t)(TESSI_MESSAGE_POST + test_random(&random) % 14);
        static const uint32_t likely[] = {0,
                                          sizeof(tessi_message_post_t) + 8,
                                          sizeof(tessi_message_give_up_t),
                                          sizeof(tessi_message_watch_t) + 8,
                                          sizeof(tessi_message_failed_t),
                                          2 * sizeof(tessi_op_record_t),
                                          sizeof(tessi_message_diagnose_t),
                                          sizeof(tessi_message_lost_t),
                                          sizeof(tessi_message_diagnosis_t),
                                          sizeof(tessi_message_exchanged_t) + 512};
        header.bytes = test_random(&random) % 8 ? likely[test_random(&random) % 10]
                                                : (uint32_t)(test_random(&random) % 4096);
        /* A goodbye or a loss would end the conversation. */
        if (header.type == TESSI_MESSAGE_GOODBYE || header.type == TESSI_MESSAGE_LOST) continue;
        /* Small numbers are the likeliest to be taken for good ones. */
        unsigned spread = test_random(&random) % 2 ? 256 : 3;
        for (uint32_t b = 0; b < header.bytes; b++)
            payload[b] = (unsigned char)(test_random(&random) % spread);
        pthread_mutex_lock(&world->lock);
        if (rank == 0) (void)tessi_server_take(world->server, 1, &header, payload);
        else (void)tessi_control_take(world, &header, payload);
        pthread_mutex_unlock(&world->lock);
    }
    free(payload);
    tess_world_close(world);
    return 0;
}

static void test_fuzzed_messages(void **state)
{
    (void)state;
    assert_int_equal(test_ranks(2, fuzz_handlers, NULL, 60000, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage),     cmocka_unit_test(test_silent_crowd),
        cmocka_unit_test(test_bad_hellos),  cmocka_unit_test(test_foreign_services),
        cmocka_unit_test(test_another_job), cmocka_unit_test(test_taken_port),
        cmocka_unit_test(test_mad_rank),    cmocka_unit_test(test_fuzzed_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
