// A program that says that it is Firecracker, and is not.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count == 2 && !strcmp(arguments[1], "--version")) {
        puts("Firecracker v1.12.1");
        return 0;
    }
    if (WHAT == 1) {
        fputs("what am I\n", stderr);
        return 3;
    }
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "api.sock"};
    if (WHAT == 0 && !bind(listener, (void *)&address, sizeof address) && !listen(listener, 8)) {
        FILE *log = fopen("log", "w");
        if (log) {
            fputs("listening\n", log);
            fclose(log);
        }
        for (;;) {
            int client = accept(listener, 0, 0);
            static const char garbage[] = "\033[2J\377 what is asked?\r\n\r\n";
            // Who only looks whether somebody listens is gone already.
            send(client, garbage, sizeof garbage - 1, MSG_NOSIGNAL);
        }
    }
    for (;;)
        pause();
}
