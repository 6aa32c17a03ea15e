/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where UCP can be used. */
#include <ucp/api/ucp.h>
#include <ucp/api/ucp_version.h>

#if UCP_API_VERSION < UCP_VERSION(1, 12)
#error UCX is older than 1.12
#endif

int main(void)
{
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    return ucs_status_string(UCS_OK) == NULL;
}
