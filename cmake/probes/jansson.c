/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where jansson can be used. */
#include <jansson.h>

#if JANSSON_VERSION_HEX < 0x020a00
#error jansson is older than 2.10
#endif

int main(void)
{
    json_t *object = json_object();
    json_decref(object);
    return object == NULL;
}
