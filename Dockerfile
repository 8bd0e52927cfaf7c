# Builds one static binary and runs it as an ordinary user with nothing else in
# the image. The folder /data is the only place that it writes to.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /cloakroom ./app && mkdir /data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /cloakroom /cloakroom
COPY --from=build --chown=65532:65532 --chmod=0700 /data /data
USER 65532:65532
WORKDIR /
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/cloakroom"]
CMD ["serve"]
