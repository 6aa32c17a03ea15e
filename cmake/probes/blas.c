/* SPDX-License-Identifier: Apache-2.0 */
/* Builds where a library with the C interface of BLAS can be used. */
#include <cblas.h>

int main(void)
{
    float a = 2, b = 3, c = 0;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 1, 1, 1, 1, &a, 1, &b, 1, 0, &c, 1);
    return c < 6;
}
