/* The connections that the guest serves. */
#pragma once

#include "machine.h"

/* Serves vsock until the guest ends. */
_Noreturn void serve(uintptr_t device);
