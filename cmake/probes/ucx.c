/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where UCP can be used. */
#include <ucp/api/ucp.h>

int main(void)
{
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    return ucs_status_string(UCS_OK) == NULL;
}
