/* SPDX-License-Identifier: Apache-2.0 */
/* The public headers name one version, and the whole API can be included at once.
 *
 * That each header compiles alone as C11 and as C++17 is shown by building this program: it holds
 * a translation unit of one line for each header and language (core.cmake).
 */
#include <tessera/tessera.h>

#include "harness.h"

static void everything_can_be_included(void **state)
{
    (void)state;
    assert_string_equal(tess_version(), TESS_VERSION);
    assert_non_null(tess_comm_all_gather);
    assert_non_null(tess_gatherer_acquire);
    assert_non_null(tess_reducer_ready);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(everything_can_be_included)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
