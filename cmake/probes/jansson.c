/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where jansson can be used. */
#include <jansson.h>

int main(void)
{
    json_t *object = json_object();
    json_decref(object);
    return object == NULL;
}
