/* The guest's side of the floors that `make bench` compares with: as little as a guest can do.
 * As /init, `floor=off` on the kernel command line: power off at once.
 * `floor=port`: load the modules, then serve the virtio-serial port until its host is gone.
 * `floor=relay`: pass what comes there on to such a program as the next, and back, as it is.
 * As a program in a VM: serve TCP connections to port 7000 in the same way. It returns once it listens. */
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[1 << 17];

static int take(int fd, uint64_t count)
{
    while (count > 0) {
        ssize_t taken = read(fd, buffer, count < sizeof buffer ? count : sizeof buffer);
        if (taken <= 0)
            return 0;
        count -= (uint64_t)taken;
    }
    return 1;
}

static int give(int fd, uint64_t count)
{
    while (count > 0) {
        ssize_t given = write(fd, buffer, count < sizeof buffer ? count : sizeof buffer);
        if (given <= 0)
            return 0;
        count -= (uint64_t)given;
    }
    return 1;
}

/* The host says what is to be done, 't', 'g' or 'e', and how often: take so many bytes and then say so, give so many, echo so many
 * one by one. It is answered with a byte before anything else. */
static void serve(int fd)
{
    uint64_t wanted[2];

    for (;;) {
        for (size_t have = 0; have < sizeof wanted;) {
            ssize_t count = read(fd, (char *)wanted + have, sizeof wanted - have);
            if (count <= 0)
                return;
            have += (size_t)count;
        }
        if (!give(fd, 1))
            return;
        if (wanted[0] == 't') {
            if (!take(fd, wanted[1]) || !give(fd, 1))
                return;
        } else if (wanted[0] == 'g') {
            if (!give(fd, wanted[1]))
                return;
        } else {
            for (uint64_t i = 0; i < wanted[1]; i++)
                if (!take(fd, 1) || !give(fd, 1))
                    return;
        }
    }
}

static int open_port(void)
{
    glob_t modules;
    int port = -1;

    if (glob("/modules/*.ko", 0, NULL, &modules) == 0)
        for (size_t i = 0; i < modules.gl_pathc; i++)
            syscall(SYS_finit_module, open(modules.gl_pathv[i], O_RDONLY), "", 3);
    while ((port = open("/dev/vport0p1", O_RDWR)) < 0)
        usleep(1000);
    return port;
}

static struct sockaddr_in loopback(void)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(7000), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int serve_connections(void)
{
    struct sockaddr_in address = loopback();
    int listener = socket(AF_INET, SOCK_STREAM, 0), connection, on = 1;

    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 8) != 0) {
        perror("cannot listen");
        return 1;
    }
    if (daemon(0, 0) != 0)
        return 1;
    while ((connection = accept(listener, NULL, NULL)) >= 0) {
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        serve(connection);
        close(connection);
    }
    return 1;
}

/* What is there is taken before any of it is passed on: the port gives 4 KiB at a time. */
static void carry(int from, int to)
{
    struct pollfd readable = {.fd = from, .events = POLLIN}, writable = {.fd = to, .events = POLLOUT};

    for (;;) {
        size_t have = 0, passed = 0;
        ssize_t count;

        poll(&readable, 1, -1);
        while (have < sizeof buffer / 2 && (count = read(from, buffer + have, sizeof buffer / 2 - have)) > 0)
            have += (size_t)count;
        if (have == 0)
            return;
        while (passed < have)
            if ((count = write(to, buffer + passed, have - passed)) > 0)
                passed += (size_t)count;
            else
                poll(&writable, 1, -1);
    }
}

static void relay(int port)
{
    struct sockaddr_in address = loopback();
    struct ifreq interface = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int connection = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    ioctl(connection, SIOCSIFFLAGS, &interface);
    if (fork() == 0)
        _exit(serve_connections());
    while (connect(connection, (struct sockaddr *)&address, sizeof address) != 0)
        usleep(1000);
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(connection, F_SETFL, O_RDWR | O_NONBLOCK);
    fcntl(port, F_SETFL, O_RDWR | O_NONBLOCK);
    if (fork() == 0)
        carry(connection, port);
    else
        carry(port, connection);
}

int main(void)
{
    char line[4096] = "";

    if (getpid() != 1)
        return serve_connections();
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int fd = open("/proc/cmdline", O_RDONLY);
    if (read(fd, line, sizeof line - 1) <= 0)
        return 1;
    if (strstr(line, "floor=port"))
        serve(open_port());
    else if (strstr(line, "floor=relay"))
        relay(open_port());
    reboot(RB_POWER_OFF);
    return 0;
}
