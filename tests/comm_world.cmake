# SPDX-License-Identifier: Apache-2.0
tessera_test(comm world TIMEOUT 120 LABELS threads)
tessera_test(comm world_exchange TIMEOUT 120 LABELS threads)
