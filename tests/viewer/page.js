// Runs in OHIF's page before OHIF does: what the tests ask the page. OHIF shows its parts as globals:
// `services` (its own) and `cornerstone`, `cornerstoneTools` (what draws and what holds the label maps).
localStorage.setItem("shownTours", JSON.stringify(["basicViewerTour"])); // no guided tour over the first study

window.asked = {
  centre(element) {
    const box = element?.getBoundingClientRect();
    return box?.width ? { x: box.x + box.width / 2, y: box.y + box.height / 2 } : null;
  },

  displaySet(sopInstanceUid) {
    return services.displaySetService.getActiveDisplaySets().find((one) =>
      [one, ...(one.images ?? [])].some((instance) => instance.SOPInstanceUID === sopInstanceUid));
  },

  // The row of a SEG in the list of series, once the images under it are there too.
  row(sopInstanceUid, slices) {
    const set = this.displaySet(sopInstanceUid);
    const images = services.displaySetService.getActiveDisplaySets().filter((one) => one.Modality === "CT");
    if (!set || images.length !== 1 || images[0].images.length !== slices || !this.image()) return null;
    return this.centre(document.getElementById(`thumbnail-${set.displaySetInstanceUID}`));
  },

  button(text) {
    return this.centre([...document.querySelectorAll("button")].find((one) => one.innerText.trim() === text));
  },

  viewport() {
    return services.cornerstoneViewportService.getCornerstoneViewport("default");
  },

  // SOP Instance UID of the slice that is drawn now.
  image() {
    const id = this.viewport()?.getCurrentImageId();
    return id && this.viewport().csImage ? this.sopInstanceUid(id) : null;
  },

  sopInstanceUid(imageId) {
    return cornerstone.metaData.get("sopCommonModule", imageId).sopInstanceUID;
  },

  // The segmentation, once its overlay lies on the images and the question whether to open it is answered.
  segmentation(sopInstanceUid) {
    const id = this.displaySet(sopInstanceUid).displaySetInstanceUID;
    const overlaid = services.segmentationService.getSegmentationRepresentations("default", { segmentationId: id });
    if (!overlaid.length || this.button("Yes") || !this.image()) return null;
    return cornerstoneTools.segmentation.state.getSegmentation(id);
  },

  // What is overlaid: the label map of each slice, by the SOP Instance UID of the slice that it lies on.
  overlay(sopInstanceUid) {
    const { segments, representationData } = this.segmentation(sopInstanceUid);
    const slices = representationData.Labelmap.imageIds.map((id) => {
      const image = cornerstone.cache.getImage(id);
      const labels = image.voxelManager.getScalarData();
      if (!(labels instanceof Uint8Array)) throw new Error(`labels are ${labels.constructor.name}`);
      let bytes = "";
      labels.forEach((label) => { bytes += String.fromCharCode(label); });
      return {
        uid: this.sopInstanceUid(image.referencedImageId), rows: image.rows, columns: image.columns, labels: btoa(bytes),
      };
    });
    const names = Object.values(segments).map((one) => [one.segmentIndex, one.label]);
    return { slices, names };
  },

  // The lines of a report that OHIF has put on images, once it shows one of those images.
  lines(sopInstanceUid) {
    const measurements = this.displaySet(sopInstanceUid).measurements ?? [];
    const drawn = measurements.filter((one) => one.loaded && one.coords.length).map((one) => ({
      image: one.ReferencedSOPInstanceUID ?? this.sopInstanceUid(one.imageId),
      text: one.labels.map(({ label, value }) => `${label}: ${value}`).join("; "),
    }));
    return drawn.length && this.image() ? drawn : null;
  },

  // Whether this slice is drawn; if not, turns to it. OHIF itself turns to the first labelled slice some time after
  // a SEG was opened, so it may have to be asked again.
  async show(sopInstanceUid) {
    const viewport = this.viewport();
    if (this.image() === sopInstanceUid) return true;
    await viewport.setImageIdIndex(viewport.getImageIds().findIndex((id) => this.sopInstanceUid(id) === sopInstanceUid));
    return false;
  },
};
