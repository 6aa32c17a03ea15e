/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where liburing 2.2 or newer can be used: io_uring_register_ring_fd came with it. */
#include <liburing.h>

int main(void)
{
    struct io_uring ring;
    if (io_uring_queue_init(1, &ring, 0) != 0) return 1;
    int status = io_uring_register_ring_fd(&ring) < 0;
    io_uring_queue_exit(&ring);
    return status;
}
