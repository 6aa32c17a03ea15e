# SPDX-License-Identifier: Apache-2.0
if(TESSERA_HAVE_NCCL)
  tessera_test(comm nccl DEVICES cuda TIMEOUT 180)
endif()
