/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where cmocka can be used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

int main(void)
{
    print_message("%s", "");
    return 0;
}
