/* SPDX-License-Identifier: Apache-2.0 */
/* What is measured of a link, and what is suggested for one. */
#include "harness.h"

#define MIB ((int64_t)1 << 20)

static void suggestions_follow_from_the_link(void **state)
{
    (void)state;
    const tess_prefetch_link_t links[] = {
        {55e9, 55e9, 10e-6}, {25e9, 26e9, 5e-6}, {400e9, 380e9, 8e-6}, {12e9, 12e9, 100e-6}};
    for (size_t n = 0; n < sizeof links / sizeof *links; n++) {
        int64_t tile_bytes = 0;
        int slots = 0;
        tess_prefetch_suggest(&links[n], 0, &tile_bytes, &slots);
        double slower = links[n].in_bytes_per_s < links[n].out_bytes_per_s
                            ? links[n].in_bytes_per_s
                            : links[n].out_bytes_per_s;
        double faster = links[n].in_bytes_per_s + links[n].out_bytes_per_s - slower;
        /* At most 1 % latency, and not a MiB more than that takes on the faster way. */
        assert_true(links[n].latency_s <= 0.01 * (double)tile_bytes / slower);
        assert_true((double)(tile_bytes - MIB) <= 100 * links[n].latency_s * faster);
        assert_int_equal(slots, 4); /* one in, one in use, one out, and one for the changes */
    }
}

static void suggestions_keep_to_their_bound(void **state)
{
    (void)state;
    const tess_prefetch_link_t link = {55e9, 55e9, 10e-6};
    int64_t before_bytes = 0;
    for (int64_t slot_bytes = 1; slot_bytes < 4096 * MIB; slot_bytes += slot_bytes / 3 + 1) {
        int64_t tile_bytes = 0;
        int slots = 0;
        tess_prefetch_suggest(&link, slot_bytes, &tile_bytes, &slots);
        assert_true(tile_bytes > 0);
        assert_true(slots >= 1);
        assert_true(slots * tile_bytes <= slot_bytes);
        if (slot_bytes >= 4 * 4096) assert_int_equal(slots, 4);
        if (slot_bytes >= 4 * 4096) assert_true(tile_bytes >= before_bytes);
        before_bytes = slot_bytes >= 4 * 4096 ? tile_bytes : 0;
    }
}

static void odd_links_are_suggested_something(void **state)
{
    (void)state;
    const tess_prefetch_link_t links[] = {
        {1e-3, 1e-3, 0}, {1e15, 1e15, 1}, {55e9, 55e9, 0}, {0, 0, 10e-6}, {1e3, 55e9, 1e-9}};
    for (size_t n = 0; n < sizeof links / sizeof *links; n++) {
        int64_t tile_bytes = 0;
        int slots = 0;
        tess_prefetch_suggest(&links[n], 0, &tile_bytes, &slots);
        assert_in_range(tile_bytes, 1, 1024 * MIB);
        assert_in_range(slots, 3, 16);
    }
}

static void a_link_is_measured(void **state)
{
    (void)state;
    tess_device_t *device;
    tess_prefetch_link_t link = {0, 0, 0};
    TEST_OK(tess_device_open(test_device_name(0), &device));
    tess_status_t status = tess_prefetch_measure(device, &link);
    if (status == TESS_ERR_OUT_OF_MEMORY) {
        print_message("128 MiB cannot be locked here: %s\n", tess_last_error());
        assert_true(link.in_bytes_per_s == 0);
        tess_device_close(device);
        skip();
    }
    TEST_OK(status);
    print_message("in %.1f GB/s, out %.1f GB/s, %.1f us\n", link.in_bytes_per_s * 1e-9,
                  link.out_bytes_per_s * 1e-9, link.latency_s * 1e6);
    assert_true(link.in_bytes_per_s > 1e6 && link.in_bytes_per_s < 1e13);
    assert_true(link.out_bytes_per_s > 1e6 && link.out_bytes_per_s < 1e13);
    assert_true(link.latency_s > 0 && link.latency_s < 1);
    TEST_STATUS(tess_prefetch_measure(NULL, &link), TESS_ERR_INVALID_ARGUMENT);
    TEST_STATUS(tess_prefetch_measure(device, NULL), TESS_ERR_INVALID_ARGUMENT);
    tess_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suggestions_follow_from_the_link),
        cmocka_unit_test(suggestions_keep_to_their_bound),
        cmocka_unit_test(odd_links_are_suggested_something),
        cmocka_unit_test(a_link_is_measured),
    };
    test_need_ranks(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
