/* Disks. */
#pragma once

#include "machine.h"

/* Prints what a disk is, and the label of its file system. Leaves the device reset. */
void describe_disk(uintptr_t device);
